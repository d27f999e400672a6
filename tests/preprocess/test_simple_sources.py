"""A folder per class, the layout of ESC-50, and a table of labels."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import config as configuration
from config import ConfigError, PipelineError
from preprocess.audio import AudioError
from preprocess.fetchData import fetch
from preprocess.metadata import check_class_id, recorder_name
from preprocess.recordings import Recording, Reject, read_table
from preprocess.sources import classfolders, esc50, folder, table


def sound(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(800), 8000)


class TestClassFolders:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        for name in ("Parus_major/a_1.wav", "Parus_major/a_2.wav", "Parus_major/deep/b_1.flac", "Noise_noise/n.wav"):
            sound(tmp_path / "birds" / name)
        return tmp_path / "birds"

    def read(self, root: Path, **options):
        source = classfolders.Source(root=str(root), **options)
        return source.read(source.fetch(root, 0, 1))

    def test_folders_are_classes(self, root):
        corpus = self.read(root)
        assert [(row.media_id, row.class_id, row.scientific_name) for row in corpus.recordings] == [
            ("Noise_noise/n.wav", "Noise_noise", "Noise noise"),
            ("Parus_major/a_1.wav", "Parus_major", "Parus major"),
            ("Parus_major/a_2.wav", "Parus_major", "Parus major"),
            ("Parus_major/deep/b_1.flac", "Parus_major", "Parus major"),
        ]
        assert len({row.group for row in corpus.recordings}) == 4
        assert {row.class_id for row in corpus.species} == {"Noise_noise", "Parus_major"}

    def test_pieces_of_one_recording_are_a_group(self, root):
        groups = {row.media_id: row.group for row in self.read(root, group_pattern=r"(.*)_\d+$").recordings}
        assert groups["Parus_major/a_1.wav"] == groups["Parus_major/a_2.wav"] == "Parus_major|a"
        assert len(set(groups.values())) == 3

    def test_names_in_either_form_of_unicode_are_one_class(self, root):
        """As macOS spells them, and others."""
        for name in ("Mo\u0308nch/1.wav", "M\u00f6nch/2.wav"):
            sound(root / name)
        corpus = self.read(root, exclude=("Noise_noise", "Parus_major"))
        assert {row.class_id for row in corpus.recordings} == {"M\u00f6nch"}
        assert len(corpus.recordings) == 2
        assert len(corpus.species) == 1
        assert self.read(root, exclude=("M\u00f6nch", "Noise_noise", "Parus_major")).recordings == []

    @pytest.mark.parametrize("drop", [True, False])
    def test_labels_that_look_wrong_are_said(self, root, tmp_path, capsys, drop):
        for name, samples in (("parus_major", 900), ("Parus_major", 901)):
            sound(root / name / "own.wav")
            soundfile.write(root / name / "own.wav", np.ones(samples) / 2, 8000)
        options = ["data.source=classfolders", f"data.root={root}", f"data.folder={tmp_path}", "data.corpus=c"]
        config = configuration.load(None, [*options, f"data.select.drop_copies={str(drop).lower()}"])
        fetch(config, 1)
        said = capsys.readouterr().out
        assert "warning: Parus_major and parus_major are taken for different species" in said
        conflict = "such as Parus_major/a_1.wav (the same bytes as Noise_noise/n.wav, which is Noise_noise)"
        assert (conflict in said) is not drop

    def test_exclude(self, root):
        assert {row.class_id for row in self.read(root, exclude=("Noise_noise",)).recordings} == {"Parus_major"}

    def test_odd_names_are_rejected(self, root):
        for name in ("loose.wav", "a;b/1.wav", ".hidden/1.wav", "Parus_major/notes.txt", "Parus_major/x\ny.wav"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(b"x")
        corpus = self.read(root)
        assert len(corpus.recordings) == 4
        assert sorted(r.reason for r in corpus.rejects) == ["bad_class_id", "bad_filename", "no_class"]

    def test_english_names_have_apostrophes(self, root):
        (root / "Cetti's Warbler").mkdir()
        (root / "Cetti's Warbler" / "1.wav").write_bytes(b"x")
        assert "Cetti's Warbler" in {row.class_id for row in self.read(root).recordings}

    @pytest.mark.parametrize("pattern", ["(", "no group"])
    def test_bad_pattern(self, root, pattern):
        with pytest.raises(ConfigError, match=r"data\.group_pattern"):
            self.read(root, group_pattern=pattern)

    @pytest.mark.parametrize("root", ["", "/nowhere/at/all"])
    def test_no_folder(self, root, tmp_path):
        with pytest.raises(PipelineError, match=r"data\.root is no folder.*one folder of audio per class"):
            classfolders.Source(root=root).fetch(tmp_path, 0, 1)

    @pytest.mark.parametrize(
        ("folder", "name"),
        [("Parus_major", "Parus major"), ("Corvus_corone_cornix", "Corvus corone cornix"), ("asbfly", ""), ("A_B", "")],
    )
    def test_scientific_name(self, folder, name):
        assert classfolders.scientific_name(folder) == name

    @pytest.mark.parametrize("place", ["birds", "birds/made/here", "link", "."])
    def test_a_corpus_among_its_own_recordings_is_refused(self, root, tmp_path, place):
        (tmp_path / "link").symlink_to(root)
        options = ["data.source=classfolders", f"data.root={root}", f"data.folder={tmp_path / place}"]
        with pytest.raises(ConfigError, match=r"data\.folder.* outside of its recordings"):
            fetch(configuration.load(None, options), 1)
        assert not list(tmp_path.rglob("recordings.csv"))

    def test_species_that_have_a_usable_recording_are_counted(self, root, tmp_path, capsys):
        (root / "Noise_noise/n.wav").write_bytes(b"")
        options = ["data.source=classfolders", f"data.root={root}", f"data.folder={tmp_path / 'data'}"]
        fetch(configuration.load(None, options), 1)
        assert " 1 species, " in capsys.readouterr().out

    def test_a_link_out_of_the_corpus_is_refused(self, root, tmp_path):
        sound(tmp_path / "private.wav")
        (root / "Parus_major" / "link.wav").symlink_to(tmp_path / "private.wav")
        config = configuration.load(
            None, ["data.source=classfolders", f"data.root={root}", f"data.folder={tmp_path}", "data.corpus=c"]
        )
        fetch(config, 1)
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(r.file, r.reason) for r in rejects] == [("Parus_major/link.wav", "outside_root")]


class TestEsc50:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        root = tmp_path / "esc"
        (root / "meta").mkdir(parents=True)
        with (root / "meta" / "esc50.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
            for fold in range(1, 6):
                for target, (category, esc10) in enumerate([("dog", True), ("rain", True), ("frog", False)]):
                    for take in "AB":
                        name = f"{fold}-{100 + fold}-{take}-{target}.wav"
                        sound(root / "audio" / name)
                        writer.writerow([name, fold, target, category, esc10, 100 + fold, take])
        return root

    def read(self, root: Path, **options):
        source = esc50.Source(root=str(root), **options)
        return source.read(source.fetch(root, 0, 1))

    def test_official_folds_and_groups(self, root):
        corpus = self.read(root)
        assert len(corpus.recordings) == 30
        row = corpus.recordings[0]
        assert (row.media_id, row.file, row.class_id, row.fold, row.group, row.part) == (
            "1-101-A-0",
            "audio/1-101-A-0.wav",
            "dog",
            "1",
            "dog|101",
            "train",
        )
        assert len({row.group for row in corpus.recordings}) == 15  # both takes of a source file together

    def test_only_esc10_and_test_fold(self, root):
        corpus = self.read(root, only_esc10=True, test_fold=5)
        assert {row.class_id for row in corpus.recordings} == {"dog", "rain"}
        assert {(row.part, row.fold) for row in corpus.recordings} == {("test", "5"), *(("train", f) for f in "1234")}

    def test_a_table_that_does_not_tell_esc10(self, root):
        table = root / "meta" / "esc50.csv"
        table.write_text(table.read_text().replace("esc10", "subset"))
        assert len(self.read(root).recordings) == 30
        with pytest.raises(PipelineError, match=r"esc50\.csv lacks the column esc10"):
            self.read(root, only_esc10=True)

    def test_fold_that_is_not_there(self, root):
        with pytest.raises(PipelineError, match=r"data\.test_fold=6.*1, 2, 3, 4, 5"):
            self.read(root, test_fold=6)

    def test_missing_and_unsafe_files(self, root):
        (root / "audio" / "1-101-A-0.wav").unlink()
        with (root / "meta" / "esc50.csv").open("a") as stream:
            stream.write(f"../../x.wav,1,0,dog,True,1,A\nshort\n{'x' * 300}.wav,1,0,dog,True,1,A\n")
        corpus = self.read(root)
        reasons = ["no_audio", "bad_filename", "metadata_malformed", "unreadable"]
        assert [r.reason for r in corpus.rejects] == reasons
        assert len(corpus.recordings) == 29

    def test_other_folder(self, tmp_path):
        with pytest.raises(PipelineError, match="not in the layout of ESC-50"):
            esc50.Source(root=str(tmp_path)).fetch(tmp_path, 0, 1)

    def test_the_test_fold_becomes_a_truth(self, root, tmp_path):
        keys = [
            "data.source=esc50",
            f"data.root={root}",
            f"data.folder={tmp_path}",
            "data.corpus=c",
            "data.test_fold=2",
        ]
        config = configuration.load(None, keys)
        fetch(config, 1)
        with (config.corpus_dir / "truth.csv").open() as stream:
            truth = {row["MediaId"]: row["ClassId"] for row in csv.DictReader(stream)}
        assert truth == {f"2-102-{take}-{i}": name for take in "AB" for i, name in enumerate(("dog", "rain", "frog"))}


class TestTable:
    def read(self, root: Path, text: str | bytes, files: tuple[str, ...] = ("a.wav", "sub/b.wav", "c.wav"), **options):
        for name in files:
            sound(root / name)
        (root / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        source = table.Source(root=str(root), **options)
        return source.read(source.fetch(root, 0, 1))

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_file_and_label_are_enough(self, tmp_path, delimiter):
        text = "file,label\na.wav,007\nsub/b.wav,1e5\n".replace(",", delimiter)
        corpus = self.read(tmp_path, text.encode("utf-8-sig"))
        assert [(row.file, row.class_id, row.part) for row in corpus.recordings] == [
            ("a.wav", "007", "train"),
            ("sub/b.wav", "1e5", "train"),
        ]
        assert corpus.recordings[0].group != corpus.recordings[1].group

    def test_split_group_and_what_else_is_known(self, tmp_path):
        corpus = self.read(
            tmp_path,
            "label,file,split,group,author,date,latitude,longitude,quality,licence,scientific_name,background,colour\n"
            "x,a.wav,train,g1,Ann,2020-5-1,12.5,-7,1,CC0,Parus major,,red\n"
            "x,sub/b.wav,TEST,,Ann,2020-05-01,99,x,9,,,Pica pica,\n"
            "y,c.wav,val,,Ann,2020-05-01,,,,,Pica pica,parus major,\n",
        )
        a, b, c = corpus.recordings
        assert (a.group, b.group, c.group) == ("g1", "x|Ann|2020-05-01", "y|Ann|2020-05-01")
        assert (a.part, b.part, c.part) == ("train", "test", "train")
        assert (a.fold, b.fold, c.fold) == ("", "", "val")
        assert (a.date, a.latitude, a.longitude, a.quality, a.licence) == ("2020-05-01", "12.5", "-7", "1", "CC0")
        assert (b.latitude, b.longitude, b.quality, b.background, c.background) == ("", "", "", "y", "x")

    def test_cells_as_a_german_spreadsheet_has_them(self, tmp_path, capsys):
        corpus = self.read(
            tmp_path,
            "File;Label;Date;Latitude;longitude;QUALITY;Time\n"
            "a.wav;x;12.5.2023;47,25;-8,5;2,5;4:30\n"
            "sub/b.wav;x;12/05/2023;n/a;8.25;;\nc.wav;y;5/12/23;?;;;dawn\n",
        )
        a, b, c = corpus.recordings
        assert (a.date, a.latitude, a.longitude, a.quality) == ("2023-05-12", "47.25", "-8.5", "2.5")
        assert (b.date, b.latitude, b.longitude) == ("", "", "8.25")
        said = capsys.readouterr().out
        assert "2 cells of date in labels.csv are not understood, such as '12/05/2023'" in said
        assert "1 cells of latitude in labels.csv are not understood, such as 'n/a'" in said
        assert "1 cells of time in labels.csv are not understood, such as 'dawn'" in said
        assert said.count("not understood") == 3
        assert c.class_id == "y"

    def test_files_and_labels_in_either_form_of_unicode(self, tmp_path):
        composed, apart = "V\u00f6gel", "Vo\u0308gel"
        names = (f"{composed}/a.wav", f"{apart}/b.wav", f"{apart}.wav")
        text = f"file,label\n{apart}/a.wav,{apart}\n{composed}/b.wav,{composed}\n{composed}.wav,x\n"
        corpus = self.read(tmp_path, text, names)
        assert [(row.file, row.class_id) for row in corpus.recordings] == [
            *((name, composed) for name in names[:2]),
            (names[2], "x"),
        ]
        (tmp_path / "labels.csv").write_text(f"file,label,start,end\n{composed}.wav,x,0,0.05\n")
        source = table.Source(root=str(tmp_path))
        assert len(source.read(source.fetch(tmp_path / "raw", 0, 1)).recordings) == 1

    def test_absolute_paths_below_the_folder(self, tmp_path):
        corpus = self.read(tmp_path / "t", f"file,label\n{tmp_path}/t/sub/b.wav,x\n")
        assert [row.file for row in corpus.recordings] == ["sub/b.wav"]
        text = f"file,label,start,end\n{tmp_path}/t/sub/b.wav,x,0,0.05\n{tmp_path}/t.wav,x,0,0.05\n"
        (tmp_path / "t" / "labels.csv").write_text(text)
        source = table.Source(root=str(tmp_path / "t"))
        corpus = source.read(source.fetch(tmp_path / "raw", 0, 1))
        assert [row.file for row in corpus.recordings] == ["sub/b.wav_0_50.flac"]
        assert [reject.reason for reject in corpus.rejects] == ["bad_filename"]

    def test_pieces_with_decimal_commas(self, tmp_path):
        sound(tmp_path / "t" / "a.wav")
        (tmp_path / "t" / "labels.csv").write_text("File;Start;End;Label\na.wav;0,01;0,05;x\n")
        source = table.Source(root=str(tmp_path / "t"))
        (row,) = source.read(source.fetch(tmp_path / "raw", 0, 1)).recordings
        assert row.file == "a.wav_10_50.flac"

    def test_unlabelled_only_in_the_test_part(self, tmp_path):
        corpus = self.read(tmp_path, "file,label,split\na.wav,,test\nc.wav,,train\nsub/b.wav,x,train\n")
        assert [(row.class_id, row.part) for row in corpus.recordings] == [("", "test"), ("x", "train")]
        assert [(r.file, r.reason) for r in corpus.rejects] == [("labels.csv:3", "bad_class_id")]

    @pytest.mark.parametrize(
        ("name", "reason", "detail"),
        [
            ("../ä.wav", "bad_filename", "../ä.wav, no path below the corpus"),
            ("/etc/passwd.wav", "bad_filename", "/etc/passwd.wav, an absolute path outside of the corpus"),
            ("sub/../a.wav", "bad_filename", "sub/../a.wav, no path below the corpus"),
            ("a\\b.wav", "bad_filename", "a\\b.wav, a name with a backslash; write folder/file"),
            ("a\x1bb.wav", "bad_filename", "'a\\x1bb.wav', no UTF-8, or with control characters"),
            ("", "bad_filename", "no file name"),
            ("labels.csv", "bad_filename", "labels.csv is not named like audio"),
            ("gone.wav", "no_audio", "gone.wav is not there"),
            ("x" * 300 + ".wav", "unreadable", "File name too long"),
        ],
    )
    def test_file_names_that_mean_harm(self, tmp_path, name, reason, detail):
        corpus = self.read(tmp_path, f"file,label\n{name},x\nc.wav,x\n")
        assert [(r.reason, r.detail) for r in corpus.rejects] == [(reason, detail)]
        assert len(corpus.recordings) == 1

    def test_pieces_of_recordings(self, tmp_path):
        """Sounds, labels and what is heard with them, by hand; pieces of one file stay together."""
        root, rate = tmp_path / "t", 8000
        (root / "sub").mkdir(parents=True)
        sounds = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 10 * rate))
        soundfile.write(root / "sub" / "a.wav", sounds[0], rate, subtype="PCM_16")
        soundfile.write(root / "b.flac", sounds[1], rate, subtype="PCM_16")
        (root / "labels.csv").write_text(
            "file,start,end,label,author\n"
            "sub/a.wav,0,1.5,x,Ann\nsub/a.wav,0:00:01,3,y,Ann\nsub/a.wav,5,6,z,Ann\nb.flac,2,4,x,Bo\nb.flac,2,4,z,Bo\n"
            "b.flac,4,4,x,Bo\nb.flac,far,4,x,Bo\n../t/b.flac,0,1,x,Bo\ngone.wav,0,1,x,Bo\nb.flac,20,21,x,Bo\nb.flac,1\n"
        )
        source = table.Source(root=str(root))
        place = source.fetch(tmp_path / "raw", 0, 1)
        corpus = source.read(place)
        assert [(row.file, row.class_id, row.background, row.group) for row in corpus.recordings] == [
            ("sub/a.wav_0_1500.flac", "x", "y", "sub/a.wav"),
            ("sub/a.wav_1000_3000.flac", "y", "x", "sub/a.wav"),
            ("sub/a.wav_5000_6000.flac", "z", "", "sub/a.wav"),
            ("b.flac_2000_4000.flac", "x", "z", "b.flac"),
            ("b.flac_2000_4000_2.flac", "z", "x", "b.flac"),
        ]
        assert [reject.reason for reject in corpus.rejects] == [
            *["metadata_malformed"] * 2, "bad_filename", "no_audio", "unreadable", "metadata_malformed",
        ]  # fmt: skip
        cut, own_rate = soundfile.read(place / "sub/a.wav_1000_3000.flac", dtype="int16")
        assert own_rate == rate
        whole = soundfile.read(root / "sub/a.wav", dtype="int16")[0]
        np.testing.assert_array_equal(cut, whole[rate : 3 * rate])
        before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
        source.fetch(tmp_path / "raw", 0, 1)
        assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
        soundfile.write(root / "b.flac", sounds[0], rate, subtype="PCM_16")
        os.utime(root / "b.flac", (1.5e9, 1.5e9))  # an older one, from an archive
        source.fetch(tmp_path / "raw", 0, 1)
        np.testing.assert_allclose(
            soundfile.read(place / "b.flac_2000_4000.flac")[0], sounds[0][2 * rate : 4 * rate], atol=2**-15
        )

    def test_pieces_of_odd_recordings(self, tmp_path):
        """32-bit floats are no silence; what FLAC cannot hold is rejected; the table of the user stays as it is."""
        root, rate = tmp_path / "t", 8000
        root.mkdir()
        tone = 0.5 * np.sin(np.arange(2 * rate))
        soundfile.write(root / "float.wav", tone, rate, subtype="FLOAT")
        soundfile.write(root / "fast.wav", tone, 96_001, subtype="PCM_16")
        soundfile.write(root / "nine.wav", np.stack([tone] * 9, axis=1), rate, subtype="PCM_16")
        name = "l" * 240 + ".wav"
        soundfile.write(root / name, tone, rate, subtype="PCM_16")
        text = "file,start,end,label,problem\n" + "".join(
            f"{file},0,0.001,x,wind\n" if file == "fast.wav" else f"{file},0,1,x,wind\n"
            for file in ("float.wav", "fast.wav", "nine.wav", name)
        )
        (root / "labels.csv").write_text(text)
        source = table.Source(root=str(root), table=str(root / "labels.csv"))
        place = source.fetch(tmp_path / "raw", 0, 1)
        corpus = source.read(place)
        assert (root / "labels.csv").read_text() == text
        assert [row.file for row in corpus.recordings] == ["float.wav_0_1000.flac", "nine.wav_0_1000.flac"]
        assert [reject.reason for reject in corpus.rejects] == ["unreadable", "bad_filename"]
        for row in corpus.recordings:
            assert np.abs(soundfile.read(place / row.file)[0]).max() == pytest.approx(0.5, abs=1e-3)
        assert not list(place.rglob("*.part"))

    def test_missing_table_and_columns(self, tmp_path):
        with pytest.raises(PipelineError, match=r"labels\.csv lacks the column label. Found: file, species"):
            self.read(tmp_path, "file,species\na.wav,x\n")
        with pytest.raises(PipelineError, match=r"no table .*other\.csv.*data\.table"):
            self.read(tmp_path, "file,label\n", table="other.csv")

    @pytest.mark.parametrize(("columns", "missing"), [("start,stop", "end"), ("begin,end", "start")])
    def test_only_one_end_of_the_pieces(self, tmp_path, columns, missing):
        with pytest.raises(PipelineError, match=rf"labels\.csv lacks the column {missing}: "):
            self.read(tmp_path, f"file,label,{columns}\na.wav,x,0,1\n")

    def test_a_quotation_mark_that_is_not_closed(self, tmp_path):
        """It is not taken for the beginning of a cell that has all other rows in it."""
        text = 'file,label,locality\na.wav,x,"a wood,\nnear by"\nc.wav,x,"a wood\nsub/b.wav,x,there\n'
        with pytest.raises(
            PipelineError, match=r"labels\.csv is no CSV file.* line 4\. Does a quotation mark"
        ) as caught:
            self.read(tmp_path, text)
        assert "\n" not in str(caught.value)
        assert len(self.read(tmp_path, text.replace('"a wood\n', '"a wood"\n')).recordings) == 3

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_unreadable_table(self, tmp_path):
        self.read(tmp_path, "file,label\na.wav,x\n")
        (tmp_path / "labels.csv").chmod(0)
        with pytest.raises(PipelineError, match="Permission denied"):
            table.Source(root=str(tmp_path)).read(tmp_path)

    def test_a_file_listed_twice(self, tmp_path):
        self.read(tmp_path / "t", "file,label\na.wav,x\na.wav,y\nc.wav,y\n")
        config = configuration.load(
            None, ["data.source=table", f"data.root={tmp_path / 't'}", f"data.folder={tmp_path}", "data.corpus=c"]
        )
        fetch(config, 1)
        assert len(read_table(config.corpus_dir / "recordings.csv", Recording)) == 2
        assert [r.reason for r in read_table(config.corpus_dir / "rejected.csv", Reject)] == ["duplicate_media_id"]

    @pytest.mark.parametrize("absolute", [True, False])
    @pytest.mark.parametrize("merged", [True, False])
    def test_a_changed_table_outside_of_the_folder_is_noticed(self, tmp_path, absolute, merged):
        place, root = tmp_path / "tables" / "own.csv", tmp_path / "birds"
        self.read(root, "file,label\n")
        place.parent.mkdir()
        name = str(place) if absolute else "../tables/own.csv"
        options = [f"data.root={root}", f"data.table={name}", "data.source=table"]
        if merged:
            self.read(tmp_path / "more", "file,label\na.wav,z\n")
            part = f"{{source='table', root='{root}', table='{name}'}}"
            options = ["data.source=merged", f"data.parts=[{part}, {{source='table', root='{tmp_path / 'more'}'}}]"]
        config = configuration.load(None, [*options, f"data.folder={tmp_path}", "data.corpus=c"])
        for label in ("x", "y"):
            place.write_text(f"file,label\na.wav,{label}\n")
            fetch(config, 1)
            assert label in {row.class_id for row in read_table(config.corpus_dir / "recordings.csv", Recording)}

    def test_odd_links_and_names_cost_only_themselves(self, tmp_path):
        """A link to itself, a name that is no UTF-8, and a linked folder; all are listed."""
        root = tmp_path / "birds"
        for name in ("robin/a.wav", "wren/b.wav", "elsewhere/c.wav"):
            sound((root if "else" not in name else tmp_path) / name)
        (root / "robin/loop.wav").symlink_to("loop.wav")
        (root / "dodo").symlink_to(tmp_path / "elsewhere")
        shutil.copy(root / "robin/a.wav", os.fsencode(root / "wren") + b"/\xff.wav")
        for name in ("classfolders", "folder"):
            config = configuration.load(
                None, [f"data.source={name}", f"data.root={root}", f"data.folder={tmp_path}", f"data.corpus={name}"]
            )
            fetch(config, 1)
            taken = {row.file for row in read_table(config.corpus_dir / "recordings.csv", Recording)}
            rejects = {(row.file, row.reason) for row in read_table(config.corpus_dir / "rejected.csv", Reject)}
            assert taken == {"robin/a.wav", "wren/b.wav"}
            assert rejects == {
                ("robin/loop.wav", "unreadable"),
                ("dodo", "linked_folder"),
                (ascii("wren/\udcff.wav"), "bad_filename"),
            }

    def test_folders_in_each_other_and_files_among_the_inputs(self, tmp_path):
        for name in ("a/b/c.wav", "d.wav", "e.wav"):
            sound(tmp_path / "in" / name)
        (tmp_path / "in/a/b/link").symlink_to(tmp_path)
        source = folder.Source(root=str(tmp_path / "in"), inputs=["a", "a/b", "d.wav"])
        corpus = source.read(source.fetch(tmp_path / "raw", 0, 1))
        assert [row.file for row in corpus.recordings] == ["a/b/c.wav", "d.wav"]
        assert [(row.file, row.reason) for row in corpus.rejects] == [("a/b/link", "linked_folder")]

    @pytest.mark.parametrize("name", ["a\nb.wav", "a\udcff.wav", "a\x1bb.wav"])
    def test_a_single_file_of_an_odd_name(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"RIFF")
        corpus = folder.Source(root=str(tmp_path / name)).read(tmp_path / name)
        assert corpus.recordings == []
        assert [(row.file, row.reason) for row in corpus.rejects] == [(ascii(name), "bad_filename")]

    def test_two_files_that_would_be_one_when_resampled(self, tmp_path):
        """a.flac and a.flac.wav would both become a.flac.wav."""
        root = tmp_path / "t"
        self.read(root, "file,label\na.flac.wav,x\na.flac,y\nc.wav,y\n", ("a.flac.wav", "a.flac", "c.wav"))
        config = configuration.load(
            None, ["data.source=table", f"data.root={root}", f"data.folder={tmp_path}", "data.corpus=c"]
        )
        fetch(config, 1)
        assert [row.file for row in read_table(config.corpus_dir / "recordings.csv", Recording)] == ["a.flac", "c.wav"]
        (reject,) = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert (reject.file, reject.reason) == ("a.flac.wav", "duplicate_name")
        assert "as a.flac;" in reject.detail


# Names of recorders' files


@pytest.mark.parametrize(
    ("file", "date", "time", "site"),
    [
        ("20230512_043000.WAV", "2023-05-12", "04:30:00", ""),
        ("pond/20230512_043000T.WAV", "2023-05-12", "04:30:00", "pond"),
        ("pond/2023-05-12T04_30_00.wav", "2023-05-12", "04:30:00", "pond"),
        ("pond/20230512_0430_12.wav", "2023-05-12", "04:30:00", "pond"),  # a number
        ("S4A01234_20230512$043000.wav", "2023-05-12", "04:30:00", "S4A01234"),
        ("pond/R20230512-043000.wav", "2023-05-12", "04:30:00", "pond"),
        ("in/Moth1/20230512/20230512_043000.WAV", "2023-05-12", "04:30:00", "Moth1"),
        ("in/Moth2/DCIM/2023-05-12/20230512_043000.WAV", "2023-05-12", "04:30:00", "Moth2"),
        ("in/wood/plot 3/2023/05/12/Data/20230512_043000.WAV", "2023-05-12", "04:30:00", "wood/plot 3"),
        ("in/dcim/20230512_043000.WAV", "2023-05-12", "04:30:00", "in"),
        ("20230512/20230512_043000.WAV", "2023-05-12", "04:30:00", "20230512"),
        ("in/2001/20230512_043000.WAV", "2023-05-12", "04:30:00", "2001"),  # a plot
        ("pond/24F31904_20230512_043000.WAV", "2023-05-12", "04:30:00", "24F31904"),
        ("S4A01234_20180610_050000.wav", "2018-06-10", "05:00:00", "S4A01234"),
        ("Data/SM304472_0+1_20180610_043000.wav", "2018-06-10", "04:30:00", "SM304472"),
        ("MSD-2_1_20220101_235959.flac", "2022-01-01", "23:59:59", "MSD-2"),
        ("a/site A/5CC9A1B0.WAV", "2019-05-01", "13:40:00", "site A"),
        ("20230512T043000+1000_Wood.wav", "2023-05-12", "04:30:00", ""),
        ("2023-05-12T04-30-00.wav", "2023-05-12", "04:30:00", ""),
        ("pond/20230512_0430.wav", "2023-05-12", "04:30:00", "pond"),
        ("pond/20230512_043075.wav", "2023-05-12", "04:30", "pond"),
        ("wood/20231399_043000.wav", "", "", "wood"),
        ("wood/BIRD_20230512_256000.wav", "", "", "wood"),
        ("DEADBEEF.WAV", "", "", ""),
        ("12345678.WAV", "", "", ""),
        ("birds/XC134896.mp3", "", "", "birds"),
    ],
)
def test_names_of_recorders(file, date, time, site):
    assert recorder_name(file) == (date, time, site)


def test_a_folder_knows_when_and_where(tmp_path):
    sound(tmp_path / "pond" / "A1_20230512_043000.wav")
    (row,) = folder.Source(root=str(tmp_path)).read(tmp_path).recordings
    assert (row.date, row.time, row.locality, row.class_id) == ("2023-05-12", "04:30:00", "A1", "")
    sound(tmp_path / "card" / "20230512_043000.wav")
    for root in (tmp_path / "card", tmp_path / "card" / "20230512_043000.wav"):
        (row,) = folder.Source(root=str(root)).read(root).recordings
        assert row.locality == "card"
    for moth in ("Moth1", "Moth2"):
        sound(tmp_path / "moths" / moth / "20230512" / "20230512_043000.wav")
    rows = folder.Source(root=str(tmp_path / "moths")).read(tmp_path / "moths").recordings
    assert [row.locality for row in rows] == ["Moth1", "Moth2"]


def test_files_that_are_named_one_by_one_are_taken_by_any_name(tmp_path):
    for name in ("a", "more/c"):
        sound(tmp_path / f"{name}.wav")
    shutil.copy(tmp_path / "a.wav", tmp_path / "b.dat")
    shutil.copy(tmp_path / "a.wav", tmp_path / "more" / "d.dat")
    corpus = folder.Source(root=str(tmp_path), inputs=("a.wav", "b.dat", "more")).read(tmp_path)
    assert [row.file for row in corpus.recordings] == ["a.wav", "b.dat", "more/c.wav"]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("Möwe/x", "^bad_class_id: Möwe/x, .*holds no /$"),
        ("x" * 129, "at most 128"),
        ("a ", "blank"),
        ("", "no class$"),
    ],
)
def test_what_is_wrong_with_a_label_is_said(label, words):
    with pytest.raises(AudioError, match=words):
        check_class_id(label)


@pytest.mark.parametrize("label", ["../../x", "/tmp/x", "..", ".", "a/b", "a\\b", "a;b", 'a"b', "'a", "x" * 129])
def test_labels_that_lead_elsewhere(label):
    with pytest.raises(AudioError, match=r"\w"):
        check_class_id(label)
