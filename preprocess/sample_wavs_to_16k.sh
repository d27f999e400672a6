#!/usr/bin/env bash
# Stage 2: resample a folder of recordings to 16 kHz, 16-bit, mono WAV with sox, on all cores.
#
#   preprocess/sample_wavs_to_16k.sh IN_DIR [OUT_DIR] [--rate HZ] [--jobs N] [--files-from LIST] [--rejected FILE]
#
# OUT_DIR (default: IN_DIR/../wav_16khz, or wav_<kHz>khz for another rate) mirrors IN_DIR; other formats than WAV get ".wav" appended.
# Files that are there and newer than their input are kept, so an interrupted run just goes on; each file is
# written under a temporary name and renamed when whole. What sox cannot use is listed with its reason in
# OUT_DIR/rejected.csv (or FILE): empty, unreadable, truncated, no_samples, too_long, bad_filename. Recordings that would clip are attenuated (sox -G).
# ffmpeg opens M4A, MP4, AAC, AMR, 3GP, WebM, WMA, MKA and Opus; without it these are rejected: no_ffmpeg.
set -euo pipefail
unset CDPATH

rate=16000       # Hz of the output
jobs=0           # processes; 0: one per core
rejected_csv=    # where the rejects are listed; empty: OUT_DIR/rejected.csv. With one, rejects only are no failure
files_from=      # take these files only: paths relative to IN_DIR, one per line; - for standard input

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; echo "Defaults: --rate $rate --jobs $jobs"; }
fail() { echo "error: $*" >&2; exit 1; }

folders=()
while [ $# -gt 0 ]; do
  case $1 in
    --rate|--jobs|--files-from|--rejected)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case $1 in --rate) rate=$2 ;; --jobs) jobs=$2 ;; --files-from) files_from=$2 ;; --rejected) rejected_csv=$2 ;; esac
      shift 2 ;;
    -h|--help) usage; exit 0 ;;
    --) shift; while [ $# -gt 0 ]; do folders+=("$1"); shift; done ;;
    -*) fail "unknown option $1; see --help" ;;
    *) folders+=("$1"); shift ;;
  esac
done
[ ${#folders[@]} -ge 1 ] && [ ${#folders[@]} -le 2 ] || { usage >&2; exit 2; }
[[ $rate =~ ^[1-9][0-9]{2,5}$ ]] || fail "--rate is a number of Hz, received $rate"
[[ $jobs =~ ^[0-9]{1,4}$ ]] || fail "--jobs is a number of processes, received $jobs"
jobs=$((10#$jobs))
[ "$jobs" -gt 0 ] || jobs=$(getconf _NPROCESSORS_ONLN)
command -v sox >/dev/null || fail "sox is missing. Install it: apt-get install sox libsox-fmt-all (or: dnf install sox, brew install sox)"
[ -z "$files_from" ] || [ "$files_from" = - ] || [ -r "$files_from" ] || fail "there is no list $files_from"
[ -d "${folders[0]}" ] || fail "there is no folder ${folders[0]}"
in_dir=$(cd "${folders[0]}" && pwd -P)
out_dir=${folders[1]:-$(dirname "$in_dir")/wav_$(awk "BEGIN { print $rate / 1000 }")khz}
mkdir -p "$out_dir" 2>/dev/null || fail "cannot make the folder $out_dir"
out_dir=$(cd "$out_dir" && pwd -P)
[ ! "$in_dir" -ef "$out_dir" ] || fail "IN_DIR and OUT_DIR are the same folder"
[ -w "$out_dir" ] || fail "cannot write to $out_dir"

list_inputs() { # NUL-separated paths relative to in_dir, in a fixed order
  if [ -n "$files_from" ]; then
    case $files_from in -) cat ;; *) cat -- "$files_from" ;; esac | tr '\n' '\0'
  else
    (cd "$in_dir" && find . -samefile "$out_dir" -prune -o \( -type f -o -type l \) ! -name '.*' \( -iname '*.wav' -o -iname '*.flac' \
      -o -iname '*.mp3' -o -iname '*.ogg' -o -iname '*.oga' -o -iname '*.opus' -o -iname '*.aif' -o -iname '*.aiff' \
      -o -iname '*.au' -o -iname '*.w64' -o -iname '*.wv' -o -iname '*.caf' -o -iname '*.m4a' -o -iname '*.mp4' \
      -o -iname '*.aac' -o -iname '*.amr' -o -iname '*.3gp' -o -iname '*.webm' -o -iname '*.wma' -o -iname '*.mka' \) -print0) | LC_ALL=C sort -z
  fi
}

output_name() { # the output of an input path: a.wav -> a.wav, a.mp3 -> a.mp3.wav
  case $1 in *.[wW][aA][vV]) out=$out_dir/$1 ;; *) out=$out_dir/$1.wav ;; esac
}

# The worker: resamples the files given as arguments and prints one NUL-terminated record for each,
# "ok", "reject<TAB>reason<TAB>file<TAB>detail" or "fatal<TAB><TAB>file<TAB>detail".
# shellcheck disable=SC2016
worker='
in_dir=$1 out_dir=$2 rate=$3; shift 3
flat() { printf %s "$1" | tr "\n\t" "; "; }
report() { printf "%s\t%s\t%s\t%s\0" "$1" "$2" "$(flat "$file")" "$(flat "$said")"; }
promise() { # how many bytes of sound the header of a WAV promises
  case $in in *.[wW][aA][vV]) ;; *) return ;; esac
  at=$(head -c 65536 "$in" | LC_ALL=C grep -abo data | head -n 1 | cut -d: -f1)
  [ -z "$at" ] || od -An -t u4 -j $((at + 4)) -N 4 "$in" | tr -d " "
}
mp3_seconds() { # what an MP3 promises in its first frame, behind ID3; 0 where there is no such tag, and sox would guess
  at=$(od -An -t u1 -N 10 "$in" | awk "{ print (\$1 \$2 \$3 == 736851) * (10 + \$10 + 128 * (\$9 + 128 * (\$8 + 128 * \$7))) }")
  tag=$(tail -c +$((at + 1)) "$in" | head -c 256 | LC_ALL=C grep -abo -e Xing -e Info -e VBRI | head -n 1)
  [ -n "$tag" ] || { echo 0; return; }
  case $tag in *VBRI) count=13 flag=1 ;; *) count=7 flag="\$1 % 2" ;; esac # whether the number is there, in the byte before it
  od -An -v -t u1 -j $((at + ${tag%%:*} + count)) -N 5 "$in" | awk -v rate="$(soxi -r "$in" 2>/dev/null)" \
    "rate && $flag { print (((\$2 * 256 + \$3) * 256 + \$4) * 256 + \$5) * (rate < 32000 ? 576 : 1152) / rate }"
}
only_message() { # take the names of files, which may have any words, out of what was said
  for name in "$part" "$source" "$in"; do
    while case $said in *"$name"*) ;; *) false ;; esac; do said=${said%%"$name"*}${said#*"$name"}; done
  done
}
make() { # with options for the input
  said=$({ sox -R "$@" "$source" -t wav -b 16 -c 1 -r "$rate" - > "$part"; } 2>&1) && status=0 || status=$?
  only_message
  case $said in
    *clipped*)
      said=$({ sox -R -G "$@" "$source" -t wav -b 16 -c 1 -r "$rate" - > "$part"; } 2>&1) && status=0 || status=$?
      only_message ;;
  esac
  size=$(wc -c < "$part")
}
decode() { # with options: what sox has no library for; ffmpeg opens no format that names other files, as playlists do
  said=$({ { ffmpeg -nostdin -v error -protocol_whitelist file,pipe \
    -format_whitelist mov,mp4,m4a,3gp,3g2,mj2,aac,amr,matroska,webm,asf,ogg -i "file:$in" -map 0:a:0 -bitexact \
    -c:a pcm_f32be -f au - || echo "; ffmpeg ended with $?" >&2; } | sox -R "$@" -t au - -t wav -b 16 -c 1 -r "$rate" - > "$part"; } 2>&1) \
    && status=0 || status=$?
  only_message
  size=$(wc -c < "$part")
}
last=
for file; do
  in=$in_dir/$file
  case $file in *.[wW][aA][vV]) out=$out_dir/$file ;; *) out=$out_dir/$file.wav ;; esac
  folder=${out%/*}
  [ "$folder" = "$last" ] || { mkdir -p "$folder"; last=$folder; }
  part=$out.part said=
  if [ ! -s "$in" ]; then
    said="0 bytes, or no such file"; report reject empty; continue
  fi
  if [ ! -r "$in" ]; then
    said="no permission to read it"; report reject unreadable; continue
  fi
  case $in in *[][*?{}\\]*) source=$(printf %s "$in" | sed "s/[][*?{}\\\\]/\\\\&/g") ;; *) source=$in ;; esac # sox expands wildcards, also in the output: hence -
  case $in in
    *.[mM]4[aA]|*.[mM][pP]4|*.[aA][aA][cC]|*.[aA][mM][rR]|*.3[gG][pP]|*.[wW][eE][bB][mM]|*.[wW][mM][aA]|*.[mM][kK][aA]|*.[oO][pP][uU][sS])
      command -v ffmpeg >/dev/null || { said="install ffmpeg, and run the command again"; report reject no_ffmpeg; continue; }
      decode
      case $said in *clipped*) decode -G ;; esac
      said=$(printf %s "$said" | sed "s/^\[[^]]* @ 0x[0-9a-f]*\] //")
      case $said in
        *"No space left"*|*"error writing output"*|*"name too long"*) ;;
        *"partial file"*|*"moov atom not found"*) rm -f "$part"; said=${said%%; ffmpeg ended*}; report reject truncated; continue ;;
        *"ffmpeg ended"*) said=${said%%; ffmpeg ended*}; rm -f "$part"; report reject unreadable; continue ;;
        *) [ "$status" -ne 0 ] || said= ;; # of damage that ffmpeg could do without
      esac ;;
    *) make ;;
  esac
  case $said in
    *"Premature EOF"*) # a program that wrote into a pipe promised 2 GB or more (0x7ffff000 is what sox leaves), or nothing
      length=$(promise); [ "${length:-0}" -lt 2147479552 ] || said= ;;
    *) [ "$size" -gt 44 ] || [ "$(promise)" != 0 ] || make --ignore-length ;;
  esac
  case $said in
    *"No space left"*|*"error writing output"*|*"ermission denied"*|*"Read-only"*) rm -f "$part"; report fatal; exit 255 ;;
    *"name too long"*) said="its name is so long that no ending can follow"; report reject bad_filename; continue ;;
    *"Premature EOF"*|*LOST_SYNC*|*"MD5 checksum mismatch"*) rm -f "$part"; report reject truncated; continue ;;
  esac
  if [ "$status" -ge 128 ]; then rm -f "$part"; said="sox ended by signal $((status - 128))"; report fatal; exit 255; fi
  case $status$said in 0|0*WARN*) case $said in *FAIL*) status=1 ;; esac ;; *) status=1 ;; esac
  if [ "$status" -ne 0 ]; then rm -f "$part"; report reject unreadable; continue; fi
  if [ "$size" -gt 4294967295 ]; then # its header counts in 32 bits, and would say a few minutes
    rm -f "$part"; said="more than 4 GB at $rate Hz, the most that a WAV can hold; cut it into pieces"; report reject too_long; continue
  fi
  promised=$(od -An -t u4 -j 40 -N 4 "$part")
  if [ "$size" -lt $((44 + ${promised:-0})) ]; then # sox says nothing if only its last buffer does not fit
    rm -f "$part"; said="No space left on device"; report fatal; exit 255
  fi
  if [ "$size" -le 44 ]; then rm -f "$part"; said="no samples"; report reject no_samples; continue; fi
  case $in in
    *.[mM][pP]3|*.[mM]4[aA]|*.[mM][pP]4|*.3[gG][pP]|*.[wW][eE][bB][mM]|*.[wW][mM][aA]|*.[mM][kK][aA])
      case $in in # what is left of a cut file is read without a word: compare with the length in its header
        *.[mM][pP]3) seconds=$(mp3_seconds) ;;
        *) # that of the sound, or where only the file has one that of the file
          seconds=$(ffprobe -v error -select_streams a:0 -show_entries stream=duration:format=duration -of default=nk=1:nw=1 \
            "file:$in" 2>/dev/null | grep -m 1 "^[0-9]" || echo 0) ;;
      esac
      case $seconds in ""|*[!0-9.]*) seconds=0 ;; esac
      if awk "BEGIN { exit !($seconds * 0.98 - 0.2 > ($size - 44) / 2 / $rate) }"; then
        rm -f "$part"; said="shorter than the $seconds s of its header"; report reject truncated; continue
      fi ;;
  esac
  mv -f "$part" "$out"
  [ "$out" -nt "$in" ] || touch -r "$in" -d "1 second" "$out" 2>/dev/null || true # of a recorder whose clock is ahead
  printf "ok\0"
done'

check_rate() { # stop where OUT_DIR was made with another --rate
  local found
  found=$(od -An -t u4 -j 24 -N 4 "$out" | tr -d ' ')
  [ "$found" = "$rate" ] || fail "$out_dir holds recordings at $found Hz. For $rate Hz choose another OUT_DIR, or remove that one."
}

todo=() kept=0
while IFS= read -r -d '' file || [ -n "$file" ]; do # the last one of a list may lack its end of line
  [ -n "$file" ] || continue
  file=${file#./}
  case /$file/ in //*|*/../*) fail "a listed file lies outside of IN_DIR: $file" ;; esac
  output_name "$file"
  if [ "$out" -nt "$in_dir/$file" ]; then
    [ $kept -gt 0 ] || check_rate
    kept=$((kept + 1))
  else todo+=("$file"); fi
done < <(list_inputs)
total=${#todo[@]}

csv() { printf '"%s"' "${1//\"/\"\"}"; }
take_apart() { # a record of the worker; `read` would stop at bytes that are no characters
  local rest=${1#*$'\t'}
  reason=${rest%%$'\t'*} rest=${rest#*$'\t'}
  file=${rest%%$'\t'*} detail=${rest#*$'\t'}
  detail=${detail:0:200}
}

rejects=${rejected_csv:-$out_dir/rejected.csv}
made=0 rejected=0 fatal= next=20
echo "file,stage,reason,detail" > "$rejects.part"
if [ "$total" -gt 0 ]; then
  batch=$((total / (jobs * 16))); [ "$batch" -ge 1 ] || batch=1; [ "$batch" -le 4 ] || batch=4
  while IFS= read -r -d '' record; do
    case $record in
      ok) made=$((made + 1)) ;;
      reject*)
        take_apart "$record"
        rejected=$((rejected + 1))
        printf '%s,resample,%s,%s\n' "$(csv "$file")" "$reason" "$(csv "$detail")" >> "$rejects.part" ;;
      fatal*) take_apart "$record"; fatal="$file: $detail" ;;
    esac
    done=$((made + rejected))
    if [ "$SECONDS" -ge "$next" ] && [ $done -gt 0 ]; then
      next=$((SECONDS + 20))
      echo "$(date +%Y-%m-%dT%H:%M:%S)   $done of $total files, $((done / SECONDS))/s, $(((total - done) * SECONDS / done)) s left"
    fi
  done < <(printf '%s\0' "${todo[@]}" | xargs -0 -n "$batch" -P "$jobs" sh -c "$worker" sh "$in_dir" "$out_dir" "$rate" 2>/dev/null || true)
fi
if [ -n "$fatal" ]; then
  rm -f "$rejects.part"
  fail "stopped at $fatal. After mending that, the same command goes on from here."
fi
whole_characters() { iconv -c -f UTF-8 -t UTF-8 || true; } # others are left out
{ head -n 1 "$rejects.part" && tail -n +2 "$rejects.part" | LC_ALL=C sort | whole_characters; } > "$rejects.sorted" && mv -f "$rejects.sorted" "$rejects" \
  || { rm -f "$rejects.part" "$rejects.sorted"; fail "cannot write $rejects"; }
rm -f "$rejects.part"
[ $((made + rejected)) -eq "$total" ] || fail "$((total - made - rejected)) of $total files got no answer from their worker; run the command again."
echo "$(date +%Y-%m-%dT%H:%M:%S) $made files resampled to $rate Hz, $kept kept, $rejected rejected$([ "$rejected" -eq 0 ] || echo ", see $rejects")"
[ $((made + kept)) -gt 0 ] || [ -n "$rejected_csv" ] || fail "not one file of $in_dir could be used"
