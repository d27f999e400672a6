"""The BirdCLEF layout: the dirty metadata that the releases hold, and files that nobody should trust."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import xmltodict

from config import PipelineError
from preprocess.fetchData import fetch
from preprocess.metadata import read_truth
from preprocess.recordings import Recording, Reject, Species, read_table
from preprocess.sources import Corpus
from preprocess.sources.birdclef import (
    MAX_XML_BYTES,
    Source,
    check_layout,
    clean_date,
    clean_number,
    clean_time,
    read_release,
    read_xml,
)
from tests.conftest import small_config, three_species, write_release

EXAMPLE = {  # a file of the release of 2015
    "MediaId": "18",
    "FileName": "LIFECLEF2014_BIRDAMAZON_XC_WAV_RN18.wav",
    "ClassId": "onzvdf",
    "Date": "2013-06-23",
    "Time": "06:30",
    "Locality": "Xapuri, Acre",
    "Latitude": "-10.7427",
    "Longitude": "-68.2818",
    "Elevation": "220",
    "Author": "Marcos A. Melo",
    "AuthorID": "MRGDYNJGUJ",
    "Content": "song",
    "Comments": "bird-seen:yesplayback-used:no",
    "Quality": "2",
    "Year": "BirdCLEF2014",
    "BackgroundSpecies": "",
    "Order": "Passeriformes",
    "Family": "Furnariidae",
    "Genus": "Furnarius",
    "Species": "leucopus",
    "Sub-species": None,
    "VernacularNames": "Pale-legged Hornero",
}
GIVEN_AWAY = ("ClassId", "Content", "Comments", "Quality", "BackgroundSpecies", "Order", "Family", "Genus", "Species")
PURGED = [
    name for name in EXAMPLE if name not in (*GIVEN_AWAY, "Sub-species", "VernacularNames")
]  # test files keep these


class Release:
    """A release on disk that grows file by file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for part in ("TrainingSet", "test"):
            for kind in ("wav", "xml"):
                (root / part / kind).mkdir(parents=True)
        self.count = 0

    def wav(self, stem: str, folder: str = "TrainingSet/wav", suffix: str = ".wav") -> None:
        path = self.root / folder / f"{stem}{suffix}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.zeros(800), 8000, format="WAV")

    def xml(self, stem: str, content: str | bytes, folder: str = "TrainingSet/xml") -> None:
        path = self.root / folder / f"{stem}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def add(self, _part: str = "TrainingSet", _wav: str = "wav", _xml: str = "xml", **tags: str | list | None) -> str:
        """Add a recording like the example with some tags changed (None: the tag is left out); return its stem."""
        self.count += 1
        stem = f"RN{self.count}"
        full = EXAMPLE | {"MediaId": str(self.count), "FileName": f"{stem}.wav"} | tags
        gone = {name for name, value in tags.items() if value is None}
        full = {name: value for name, value in full.items() if name not in gone}
        self.wav(stem, f"{_part}/{_wav}")
        self.xml(stem, xmltodict.unparse({"Audio": full}), f"{_part}/{_xml}")
        return stem

    def read(self) -> Corpus:
        return read_release(self.root)

    def only(self) -> Recording:
        corpus = self.read()
        assert corpus.rejects == []
        (row,) = corpus.recordings
        return row

    def reasons(self) -> dict[str, str]:
        return {reject.file: reject.reason for reject in self.read().rejects}


def test_a_limit_leaves_out_the_truth_of_what_it_left_out(tmp_path):
    """What nobody predicts would count as predicted wrongly."""
    root = write_release(tmp_path / "release", three_species(12, test=9))
    truth = "".join(f"{112 + k},{'abc'[k % 3] * 6},\n" for k in range(9))
    (root / "test_groundtruth.csv").write_text("MediaId,ClassId,BackgroundClassIds\n" + truth)
    config = small_config(tmp_path, root, "data.limit=6")
    fetch(config, 1)
    rows = read_table(config.corpus_dir / "recordings.csv", Recording)
    tested = {row.media_id for row in rows if row.part == "test"}
    assert 0 < len(tested) < 9
    assert read_truth(config.corpus_dir / "truth.csv").keys() == tested


def test_a_default_that_is_written_out_is_the_same_data(tmp_path, capsys):
    root = write_release(tmp_path / "release", three_species(6))
    fetch(small_config(tmp_path, root), 1)
    for overrides in (["data.url=http://otmedia.lirmm.fr/LifeCLEF/BirdCLEF2016/"], []):
        fetch(small_config(tmp_path, root, *overrides), 1)
        assert "nothing changed" in capsys.readouterr().out


def test_a_name_that_is_not_utf8_costs_only_itself(tmp_path):
    root = write_release(tmp_path / "release", three_species(6))
    (root / "TrainingSet" / "xml" / os.fsdecode(b"m\xe9sange.xml")).write_text("<Audio><MediaId>9</MediaId></Audio>")
    config = small_config(tmp_path, root)
    fetch(config, 1)
    assert len(read_table(config.corpus_dir / "recordings.csv", Recording)) == 9
    assert [row.reason for row in read_table(config.corpus_dir / "rejected.csv", Reject)] == ["bad_filename"]


@pytest.fixture
def release(tmp_path) -> Release:
    return Release(tmp_path / "release")


class TestFields:
    def test_of_the_example(self, release):
        release.wav("LIFECLEF2014_BIRDAMAZON_XC_WAV_RN18")
        release.xml("LIFECLEF2014_BIRDAMAZON_XC_WAV_RN18", xmltodict.unparse({"Audio": EXAMPLE}))
        assert release.only() == Recording(
            media_id="18",
            file="TrainingSet/wav/LIFECLEF2014_BIRDAMAZON_XC_WAV_RN18.wav",
            class_id="onzvdf",
            group="onzvdf|MRGDYNJGUJ|2013-06-23",
            part="train",
            scientific_name="Furnarius leucopus",
            vernacular_name="Pale-legged Hornero",
            date="2013-06-23",
            time="06:30",
            latitude="-10.7427",
            longitude="-68.2818",
            elevation="220",
            locality="Xapuri, Acre",
            author="Marcos A. Melo",
            content="song",
            quality="2",
        )
        assert release.read().species == [
            Species("onzvdf", "Furnarius leucopus", "Pale-legged Hornero", "Passeriformes", "Furnariidae")
        ]

    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            ("06:30", "06:30"),
            ("9:45", "09:45"),
            ("8:30am", "08:30"),
            ("8:30pm", "20:30"),
            ("8:30 PM", "20:30"),
            ("8:30 p.m.", "20:30"),
            ("8:30:15 pm", "20:30"),
            ("08:30:15", "08:30"),
            ("12:05am", "00:05"),
            ("12:05pm", "12:05"),
            ("?:?", ""),
            ("?", ""),
            ("", ""),
            ("25:00", ""),
            ("10:61", ""),
            ("morning", ""),
        ],
    )
    def test_time(self, release, text, clean):
        assert clean_time(text) == clean
        release.add(Time=text)
        assert release.only().time == clean

    @pytest.mark.parametrize(
        ("text", "clean"),
        [
            ("2006-09-03", "2006-09-03"),
            ("2001-10-00", "2001-10"),
            ("2001-00-00", "2001"),
            ("0000-00-00", ""),
            ("2001-13-01", "2001"),
            ("2001-02-31", "2001-02"),
            ("2004-02-29", "2004-02-29"),
            ("2001-1-2", "2001-01-02"),
            ("", ""),
            ("?", ""),
            ("yesterday", ""),
            ("2001-10-03 and more", ""),
        ],
    )
    def test_date(self, release, text, clean):
        assert clean_date(text) == clean
        release.add(Date=text)
        row = release.only()
        assert (row.date, row.group) == (clean, f"onzvdf|MRGDYNJGUJ|{clean}")

    @pytest.mark.parametrize(
        ("text", "limit", "clean"),
        [
            ("-8.0334", 90, "-8.0334"),
            ("90", 90, "90"),
            ("90.1", 90, ""),
            ("NULL", 90, ""),
            ("?", 9000, ""),
            ("", 90, ""),
            ("nan", 90, ""),
            ("inf", 90, ""),
            ("12 m", 9000, ""),
        ],
    )
    def test_number(self, text, limit, clean):
        assert clean_number(text, limit) == clean

    def test_unknown_place(self, release):
        release.add(Latitude="NULL", Longitude="NULL", Elevation="?", Locality="?", Content="?", Quality="9")
        row = release.only()
        assert (row.latitude, row.longitude, row.elevation, row.locality) == ("", "", "", "")
        assert (row.content, row.quality) == ("", "")

    def test_missing_tags_are_empty(self, release):
        needed = ("MediaId", "ClassId")
        release.add(**{name: None for name in EXAMPLE if name not in needed})
        row = release.only()
        expected = Recording("1", "TrainingSet/wav/RN1.wav", "onzvdf", group="onzvdf|1")
        assert row == expected

    def test_repeated_empty_and_attributed_tags(self, release):
        release.add(
            Author=["", "First", "Second"],
            Locality=[None, {"@lang": "en", "#text": "the  wood\n near by"}],
            Content={"@x": "1"},
        )
        row = release.only()
        assert (row.author, row.locality, row.content) == ("First", "the wood near by", "")

    def test_characters_of_the_world(self, release):
        release.add(Locality="Campus da UFPE, Cidade Universitária", Author='Zoë "Z" O\'Hara & <Søn>')
        row = release.only()
        assert row.locality == "Campus da UFPE, Cidade Universitária"
        assert row.author == 'Zoë "Z" O\'Hara & <Søn>'

    @pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16", "UTF-8"])
    def test_encoding_that_the_file_declares(self, release, encoding):
        release.wav("a")
        text = (
            f'<?xml version="1.0" encoding="{encoding}"?>{xmltodict.unparse({"Audio": EXAMPLE}, full_document=False)}'
        )
        text = text.replace("Marcos", "Märcos").replace(EXAMPLE["FileName"], "a.wav")
        release.xml("a", text.encode(encoding))
        assert release.only().author == "Märcos A. Melo"

    def test_species_names_are_completed_by_later_recordings(self, release):
        release.add(Genus=None, Species=None, Order=None)
        release.add(Family=None, VernacularNames=None)
        assert release.read().species == [
            Species("onzvdf", "Furnarius leucopus", "Pale-legged Hornero", "Passeriformes", "Furnariidae")
        ]

    def test_without_a_recordist_every_recording_is_its_own_group(self, release):
        release.add(Author=None, AuthorID=None)
        release.add(Author=None, AuthorID=None)
        release.add(AuthorID=None)
        groups = [row.group for row in release.read().recordings]
        assert groups == ["onzvdf|1", "onzvdf|2", "onzvdf|Marcos A. Melo|2013-06-23"]


class TestBackground:
    @staticmethod
    def background(release, text: str | None) -> str:
        release.add(ClassId="emiowy", Genus="Picumnus", Species="exilis")
        release.add(ClassId="aaaaaa", Genus="Crypturellus", Species="undulatus")
        stem = release.add(BackgroundSpecies=text)
        (row,) = [row for row in release.read().recordings if row.file.endswith(f"{stem}.wav")]
        return row.background

    @pytest.mark.parametrize(
        ("text", "ids"),
        [
            ("Crypturellus undulatus", "aaaaaa"),
            ("Picumnus exilis,Crypturellus undulatus", "aaaaaa,emiowy"),
            ("picumnus  EXILIS , Crypturellus undulatus", "aaaaaa,emiowy"),
            ("Crypturellus undulatus,Crypturellus undulatus", "aaaaaa"),
            ("Crypturellus undulatus,Myrmeciza atrothorax", "aaaaaa"),
            ("Myrmeciza atrothorax", ""),
            ("Furnarius leucopus,Picumnus exilis", "emiowy"),
            ("", ""),
            (",", ""),
            (None, ""),
        ],
    )
    def test_names_become_class_ids(self, release, text, ids):
        """Species that are no class of the corpus, and the recording's own, are left out."""
        assert self.background(release, text) == ids

    def test_no_background_where_a_species_has_no_name(self, release):
        release.add(ClassId="nameless", Genus=None, Species=None)
        assert self.background(release, "") == ""

    def test_test_part_has_none(self, release):
        release.add(_part="test", BackgroundSpecies="Furnarius leucopus")
        assert release.only().background == ""


class TestPairs:
    def test_upper_case_suffix_and_other_case_of_the_stem(self, release):
        release.wav("rn7", suffix=".WAV")
        release.xml("RN7", xmltodict.unparse({"Audio": EXAMPLE | {"FileName": "RN7.wav"}}))
        assert release.only().file == "TrainingSet/wav/rn7.WAV"

    def test_file_name_without_suffix_or_with_another(self, release):
        release.wav("a", suffix=".flac")
        release.xml("a", xmltodict.unparse({"Audio": EXAMPLE | {"FileName": "a.wav"}}))
        release.wav("b.c")
        release.xml("b", xmltodict.unparse({"Audio": EXAMPLE | {"MediaId": "2", "FileName": "b.c"}}))
        assert [row.file for row in release.read().recordings] == ["TrainingSet/wav/a.flac", "TrainingSet/wav/b.c.wav"]

    def test_file_name_decides_and_not_the_name_of_the_xml(self, release):
        release.wav("LIFE_RN5")
        release.xml("5", xmltodict.unparse({"Audio": EXAMPLE | {"FileName": "LIFE_RN5.wav"}}))
        assert release.only().file == "TrainingSet/wav/LIFE_RN5.wav"

    def test_without_file_name_the_name_of_the_xml_counts(self, release):
        release.add(FileName=None)
        assert release.only().file == "TrainingSet/wav/RN1.wav"

    def test_wav_without_xml_and_xml_without_wav(self, release):
        release.add()
        release.wav("lonely")
        release.xml("silent", xmltodict.unparse({"Audio": EXAMPLE | {"FileName": "silent.wav"}}))
        assert release.reasons() == {
            "TrainingSet/wav/lonely.wav": "no_metadata",
            "TrainingSet/xml/silent.xml": "no_audio",
        }
        assert len(release.read().recordings) == 1

    def test_audio_of_a_rejected_xml_is_not_reported_twice(self, release):
        release.add(ClassId=None)
        assert release.reasons() == {"TrainingSet/xml/RN1.xml": "bad_class_id"}

    def test_of_two_audio_files_the_named_one_is_taken_and_the_other_reported(self, release):
        stem = release.add()
        release.wav(stem, suffix=".flac")
        corpus = release.read()
        assert [row.file for row in corpus.recordings] == ["TrainingSet/wav/RN1.wav"]
        assert [reject.file for reject in corpus.rejects] == ["TrainingSet/wav/RN1.flac"]

    def test_same_name_in_both_test_folders(self, release):
        release.add(_part="test", ClassId=None)
        release.wav("RN1", "test/wav2015")
        corpus = release.read()
        assert [row.file for row in corpus.recordings] == ["test/wav/RN1.wav"]
        assert [reject.file for reject in corpus.rejects] == ["test/wav2015/RN1.wav"]

    def test_other_files_are_no_business_of_ours(self, release):
        release.add()
        (release.root / "TrainingSet/wav/readme.txt").write_text("x")
        (release.root / "TrainingSet/wav/._RN1.wav").write_text("of a Macintosh")
        (release.root / "TrainingSet/xml/notes.csv").write_text("x")
        assert release.only().media_id == "1"

    def test_folders_of_2015_are_read_too(self, release):
        release.add(_part="test", ClassId=None)
        release.add(_part="test", _wav="wav2015", _xml="xml2015", ClassId=None)
        files = [row.file for row in release.read().recordings]
        assert files == ["test/wav/RN1.wav", "test/wav2015/RN2.wav"]

    def test_purged_test_metadata(self, release):
        release.wav("RN17", "test/wav")
        tags = {name: EXAMPLE[name] for name in PURGED} | {"MediaId": "17", "FileName": "RN17.wav"}
        release.xml("RN17", xmltodict.unparse({"Audio": tags}), "test/xml")
        row = release.only()
        assert (row.part, row.class_id, row.background, row.scientific_name) == ("test", "", "", "")
        assert (row.media_id, row.author, row.date) == ("17", "Marcos A. Melo", "2013-06-23")
        assert release.read().species == []

    def test_class_of_a_test_file_is_not_read(self, release):
        """A release that was not purged must not put classes into the training."""
        release.add(_part="test", ClassId="leaked")
        assert release.only().class_id == ""
        assert release.read().species == []

    def test_ground_truth_beside_it(self, release):
        release.add()
        assert release.read().truth is None
        truth = release.root / "test_groundtruth.csv"
        truth.write_text("MediaId,ClassId,BackgroundClassIds\n")
        assert release.read().truth == truth


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
BOMB = f'<?xml version="1.0"?><!DOCTYPE Audio [<!ENTITY l0 "lol">{LAUGHS}]><Audio><Author>&l9;</Author></Audio>'
FILE_ENTITY = '<!DOCTYPE Audio [<!ENTITY f SYSTEM "file:///etc/passwd">]><Audio><Author>&f;</Author></Audio>'


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "xml_malformed"),
            (b"no xml", "xml_malformed"),
            (b"<Audio><MediaId>1</MediaId>", "xml_malformed"),
            (b"<Audio><MediaId>1</Audio>", "xml_malformed"),
            (b"<Audio/>", "xml_malformed"),
            (b"<Audio>text</Audio>", "xml_malformed"),
            (b"<Video><MediaId>1</MediaId></Video>", "xml_malformed"),
            (b"<Audio><Author>\xff</Author></Audio>", "xml_malformed"),
            (b'<?xml version="1.0" encoding="nonsense"?><Audio><MediaId>1</MediaId></Audio>', "xml_malformed"),
            (b'<?xml version="1.0" encoding="shift_jis"?><Audio><MediaId>1</MediaId></Audio>', "xml_malformed"),
            (BOMB.encode(), "xml_entities"),
            (FILE_ENTITY.encode(), "xml_entities"),
            (b"<Audio><MediaId>1</MediaId>" + b" " * MAX_XML_BYTES + b"</Audio>", "xml_too_large"),
        ],
        ids=[
            "empty",
            "text",
            "cut",
            "not nested",
            "no tags",
            "text only",
            "another root",
            "no UTF-8",
            "unknown encoding",
            "multi-byte encoding",
            "entity bomb",
            "entity of a file",
            "too large",
        ],
    )
    def test_xml(self, release, content, reason):
        release.add()
        release.wav("bad")
        release.xml("bad", content)
        assert release.reasons() == {"TrainingSet/xml/bad.xml": reason}
        assert len(release.read().recordings) == 1

    def test_deep_nesting(self, release):
        release.add()
        deep = b"<Audio>" + b"<a>" * 8000 + b"</a>" * 8000 + b"</Audio>"
        assert len(deep) < MAX_XML_BYTES
        release.xml("deep", deep)
        release.wav("deep")
        assert release.reasons() == {"TrainingSet/xml/deep.xml": "bad_media_id"}

    @pytest.mark.parametrize(
        "name",
        [
            "../secret.wav",
            "/etc/passwd.wav",
            "a/b.wav",
            "..\\x.wav",
            "-rf.wav",
            ".hidden.wav",
            "a\u202eb.wav",
            "a\x7fb.wav",
        ],
    )
    def test_file_name(self, release, name):
        (release.root / "TrainingSet/secret.wav").write_bytes(b"x")
        release.add(FileName=name)
        assert release.reasons() == {"TrainingSet/xml/RN1.xml": "bad_filename"}

    @pytest.mark.parametrize("media_id", [None, "", "a b", "../x", "a\\b", "x" * 65, '"', "1,2"])
    def test_media_id(self, release, media_id):
        release.add(MediaId=media_id)
        assert release.reasons() == {"TrainingSet/xml/RN1.xml": "bad_media_id"}

    @pytest.mark.parametrize("class_id", [None, "", "a b", "a,b", "../x", "x" * 65])
    def test_class_id(self, release, class_id):
        release.add(ClassId=class_id)
        assert release.reasons() == {"TrainingSet/xml/RN1.xml": "bad_class_id"}

    @pytest.mark.parametrize("kind", ["dangling link", "folder", "pipe", "endless"])
    def test_xml_that_is_no_file(self, release, kind):
        release.add()
        path = release.root / "TrainingSet/xml/odd.xml"
        {
            "folder": path.mkdir,
            "pipe": lambda: os.mkfifo(path),
            "endless": lambda: path.symlink_to("/dev/zero"),
            "dangling link": lambda: path.symlink_to("nowhere"),
        }[kind]()
        corpus = release.read()
        assert [row.media_id for row in corpus.recordings] == ["1"]
        assert len(corpus.rejects) <= 1

    def test_read_xml_returns_text_only(self, release):
        release.xml("a", "<Audio><A>1</A><B><C>2</C></B><D/></Audio>")
        assert read_xml(release.root / "TrainingSet/xml/a.xml") == {"A": "1", "B": "", "D": ""}


class TestLayout:
    @pytest.mark.parametrize(
        ("missing", "named"),
        [
            ("TrainingSet/wav", ["TrainingSet/wav"]),
            ("TrainingSet/xml", ["TrainingSet/xml"]),
            ("test/wav", ["test/wav or wav2015"]),
            ("test/xml", ["test/xml or xml2015"]),
        ],
    )
    def test_missing_folder_is_named(self, release, missing, named):
        check_layout(release.root)
        (release.root / missing).rmdir()
        with pytest.raises(PipelineError) as caught:
            check_layout(release.root)
        assert all(name in str(caught.value) for name in [*named, str(release.root)])
        assert str(caught.value).count("/xml") + str(caught.value).count("/wav") == 1

    def test_test_part_may_be_absent_or_of_2015(self, release):
        for kind in ("wav", "xml"):
            (release.root / "test" / kind).rename(release.root / "test" / f"{kind}2015")
        check_layout(release.root)
        for kind in ("wav", "xml"):
            (release.root / "test" / f"{kind}2015").rmdir()
        (release.root / "test").rmdir()
        check_layout(release.root)

    def test_root_that_is_not_there(self, tmp_path):
        with pytest.raises(PipelineError, match=r"data\.root is no folder.*nowhere"):
            Source(root=str(tmp_path / "nowhere")).fetch(tmp_path / "raw", 0, 1)

    def test_empty_root_lists_all(self, tmp_path):
        with pytest.raises(PipelineError, match="TrainingSet/wav, TrainingSet/xml"):
            Source(root=str(tmp_path)).fetch(tmp_path / "raw", 0, 1)


class TestManifest:
    @pytest.mark.parametrize(
        ("class_id", "reason"), [("onzvdf", "duplicate_recording"), ("other", "conflicting_label")]
    )
    def test_two_of_one_file(self, release, tmp_path, class_id, reason):
        release.add(MediaId="5")
        again = xmltodict.unparse({"Audio": EXAMPLE | {"MediaId": "6", "FileName": "RN1.wav", "ClassId": class_id}})
        release.xml("RN2", again)
        config = small_config(tmp_path, release.root)
        fetch(config, 1)
        assert [row.media_id for row in read_table(config.corpus_dir / "recordings.csv", Recording)] == ["5"]
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(row.file, row.reason) for row in rejects] == [("TrainingSet/wav/RN1.wav", reason)]

    def test_duplicate_media_id_keeps_the_first_in_order(self, release, tmp_path):
        release.add(MediaId="5")
        release.add(MediaId="5")
        release.add(_part="test", MediaId="5", ClassId=None)
        config = small_config(tmp_path, release.root)
        fetch(config, 1)
        rows = read_table(config.corpus_dir / "recordings.csv", Recording)
        assert [row.file for row in rows] == ["TrainingSet/wav/RN1.wav"]
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(row.file, row.reason) for row in rejects] == [
            ("TrainingSet/wav/RN2.wav", "duplicate_media_id"),
            ("test/wav/RN3.wav", "duplicate_media_id"),
        ]

    def test_audio_that_is_a_link_out_of_the_corpus(self, release, tmp_path):
        release.add()
        soundfile.write(tmp_path / "outside.wav", np.zeros(800), 8000)
        (release.root / "TrainingSet/wav/x.wav").symlink_to(tmp_path / "outside.wav")
        release.xml("x", xmltodict.unparse({"Audio": EXAMPLE | {"FileName": "x.wav"}}))
        config = small_config(tmp_path, release.root)
        fetch(config, 1)
        rejects = read_table(config.corpus_dir / "rejected.csv", Reject)
        assert [(row.file, row.reason) for row in rejects] == [("TrainingSet/wav/x.wav", "outside_root")]

    def test_nothing_usable(self, release, tmp_path):
        release.wav("lonely")
        with pytest.raises(PipelineError, match=r"no usable recording.*no_metadata 1"):
            fetch(small_config(tmp_path, release.root), 1)

    def test_second_run_keeps_the_manifest_and_a_change_renews_it(self, release, tmp_path, capsys):
        release.add()
        config = small_config(tmp_path, release.root)
        fetch(config, 1)
        before = (config.corpus_dir / "recordings.csv").stat().st_mtime_ns
        fetch(config, 1)
        assert (config.corpus_dir / "recordings.csv").stat().st_mtime_ns == before
        assert "nothing changed" in capsys.readouterr().out
        release.add()
        fetch(config, 1)
        assert len(read_table(config.corpus_dir / "recordings.csv", Recording)) == 2

    def test_a_list_of_rejects_that_was_removed_or_damaged_is_made_again(self, release, tmp_path, capsys):
        release.add()
        release.wav("lonely")
        config = small_config(tmp_path, release.root)
        fetch(config, 1)
        path = config.corpus_dir / "rejected.csv"
        before = path.read_bytes()
        for damage in (path.unlink, lambda: path.write_bytes(before[:-9]), lambda: path.write_text("x\n")):
            damage()
            fetch(config, 1)
            assert path.read_bytes() == before
            assert "made again, as they are not what was written: rejected.csv" in capsys.readouterr().out
        fetch(config, 1)
        assert "nothing changed: 1 recordings taken, 1 rejected" in capsys.readouterr().out

    def test_the_same_folder_by_another_name(self, release, tmp_path, monkeypatch, capsys):
        release.add()
        fetch(small_config(tmp_path, release.root), 1)
        monkeypatch.chdir(release.root.parent)
        for root in (f"{release.root}/", release.root.name, f"./{release.root.name}/."):
            fetch(small_config(tmp_path, root), 1)
            assert "nothing changed" in capsys.readouterr().out

    @pytest.mark.parametrize(("text", "words"), [
        ("", "lacks the column MediaId, ClassId"), ("a;b\n1;2\n", "lacks the column MediaId"),
        ("MediaId;ClassId\n5;\n", "line 2"), ("MediaId,ClassId\n5,x\n5,x\n", "listed twice"),
    ])  # fmt: skip
    def test_a_ground_truth_is_read_at_once(self, release, tmp_path, text, words):
        release.add()
        release.add(_part="test", MediaId="5", ClassId=None)
        (release.root / "test_groundtruth.csv").write_text(text)
        with pytest.raises(PipelineError, match=words):
            fetch(small_config(tmp_path, release.root), 1)

    def test_a_ground_truth_of_another_program(self, release, tmp_path):
        """With semicolons, a mark at its beginning and an empty first line."""
        release.add()
        release.add(_part="test", MediaId="5", ClassId=None)
        (release.root / "test_groundtruth.csv").write_text(
            "\n MediaId ;ClassId;BackgroundClassIds\n5;xyz;abc,def\n6;xyz\n", encoding="utf-8-sig"
        )
        config = small_config(tmp_path, release.root)
        fetch(config, 1)
        assert read_truth(config.corpus_dir / "truth.csv") == {"5": ("xyz", ["abc", "def"]), "6": ("xyz", [])}
        assert (config.corpus_dir / "truth.csv").read_text().startswith("MediaId,ClassId,BackgroundClassIds\n5,")

    def test_folder_of_another_corpus_is_not_overwritten(self, release, tmp_path):
        release.add()
        fetch(small_config(tmp_path, release.root), 1)
        other = Release(tmp_path / "other")
        other.add()
        with pytest.raises(PipelineError, match=r"made from other data.*data\.root.*data\.corpus"):
            fetch(small_config(tmp_path, other.root), 1)
