// Judging of clips, one after the other; see predict/reviewSegments.py.
const clips = JSON.parse(document.getElementById("clips").textContent), key = "review " + document.getElementById("clips").dataset.mark;
let at = 0, verdicts = {};
try { verdicts = JSON.parse(localStorage.getItem(key) || "{}"); } catch (error) { verdicts = {}; }
const $ = id => document.getElementById(id), audio = $("sound");
function keep() { try { localStorage.setItem(key, JSON.stringify(verdicts)); } catch (error) { /* private window */ } }
function show(play) {
  const clip = clips[at], verdict = verdicts[clip.name] || "";
  $("species").textContent = clip.title;
  $("facts").textContent = `${clip.file}, ${clip.start.toFixed(1)} to ${clip.end.toFixed(1)} s, score ${clip.score.toFixed(3)}`;
  $("picture").src = `clips/${clip.name}.png`;
  $("picture").alt = `Spectrogram of ${clip.title}`;
  $("judged").style.left = `${100 * clip.from}%`;
  $("judged").style.right = `${100 * (1 - clip.to)}%`;
  $("highest").textContent = `${clip.highest / 1000} kHz`;
  audio.src = `clips/${clip.name}.flac`;
  for (const name of ["right", "wrong", "unsure"]) $(name).setAttribute("aria-pressed", verdict === name);
  const done = clips.filter(own => verdicts[own.name]).length;
  $("progress").value = done;
  $("where").textContent = `Clip ${at + 1} of ${clips.length}; ${done} judged`;
  if (play) audio.play().catch(() => {});
}
function go(step) { at = Math.min(clips.length - 1, Math.max(0, at + step)); show(true); }
function judge(verdict) { verdicts[clips[at].name] = verdict; keep(); if (at < clips.length - 1) go(1); else show(false); }
function quote(value) { const text = String(value); return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text; }
function table() {
  const lines = ["clip,file,start,end,class_id,score,verdict"];
  for (const clip of clips) {
    const cells = [clip.name, clip.file, clip.start, clip.end, clip.class_id, clip.score, verdicts[clip.name] || ""];
    lines.push(cells.map(quote).join(","));
  }
  return lines.join("\n") + "\n";
}
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table()], {type: "text/csv"}));
  link.download = "reviewed.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}
function toggle() { if (audio.paused) audio.play(); else audio.pause(); }
for (const name of ["right", "wrong", "unsure"]) $(name).onclick = () => judge(name);
$("back").onclick = () => go(-1);
$("next").onclick = () => go(1);
$("save").onclick = save;
const keys = {r: () => judge("right"), w: () => judge("wrong"), u: () => judge("unsure"), s: save,
  ArrowLeft: () => go(-1), ArrowRight: () => go(1), " ": toggle};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "AUDIO") return;
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) { event.preventDefault(); act(); }
});
audio.addEventListener("timeupdate", () => {
  $("cursor").style.left = audio.duration ? 100 * audio.currentTime / audio.duration + "%" : "0";
});
const open = clips.findIndex(clip => !verdicts[clip.name]);
at = open < 0 ? 0 : open;
show(false);
