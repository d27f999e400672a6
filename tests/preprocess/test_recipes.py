"""The mel front ends against librosa and TensorFlow's mel matrix, the others against plain definitions."""

import dataclasses
import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.ndimage

from config import ConfigError, Features
from preprocess import cleaning
from preprocess.mask import SignalNoiseMask, SilenceMask, active_frames, noise_columns
from preprocess.mel import hz_to_mel, mel_matrix, mel_to_hz
from preprocess.recipes import describe, logmel, open_recipe, passau, pcen, sprengel2016, threewindows, vggish, waveform
from tests.preprocess.naive import write_wav


def sweep(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """A rising tone in noise, int16."""
    time = np.arange(int(seconds * rate)) / rate
    tone = 9000 * np.sin(2 * np.pi * (300 + 1200 * time) * time)
    return np.rint(tone + np.random.default_rng(seed).normal(0, 200, len(time))).astype(np.int16)


def whole(recipe, path: Path) -> np.ndarray:
    return np.concatenate(list(recipe.blocks(path)))


@pytest.fixture
def wav(tmp_path):
    """Writes a sweep at a rate; returns the file and its samples as shares of full scale, float64."""

    def write(rate: int, seconds: float = 7.3) -> tuple[Path, np.ndarray]:
        samples = sweep(seconds, rate)
        return write_wav(tmp_path / f"{rate}.wav", samples, rate), samples / 32768

    return write


class TestMel:
    @pytest.mark.parametrize(("rate", "n_fft", "bands", "low", "high"), [
        (22_050, 2048, 128, 0, 11_025), (22_050, 1024, 64, 500, 11_025), (32_000, 2048, 128, 2000, 8000),
    ])  # fmt: skip
    def test_slaney_is_librosas(self, rate, n_fft, bands, low, high):
        expected = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands, fmin=low, fmax=high)
        np.testing.assert_allclose(mel_matrix(rate, n_fft, bands, low, high, "slaney").T, expected, atol=1e-6)

    def test_htk_is_tensorflows(self):
        import tensorflow as tf

        expected = tf.signal.linear_to_mel_weight_matrix(64, 257, 16_000, 125.0, 7500.0).numpy()
        np.testing.assert_allclose(mel_matrix(16_000, 512, 64, 125, 7500, "htk"), expected, atol=1e-5)

    @pytest.mark.parametrize("scale", ["slaney", "htk"])
    def test_back_and_forth(self, scale):
        hz = np.array([0.0, 60, 999, 1000, 1001, 4000, 16_000])
        np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz, scale), scale), hz, atol=1e-6)
        np.testing.assert_allclose(hz_to_mel(hz, scale), librosa.hz_to_mel(hz, htk=scale == "htk"), atol=1e-9)


class TestLogMel:
    @pytest.mark.parametrize("options", [
        {}, {"n_fft": 1024, "window": 1024, "mels": 64}, {"mels": 256, "n_fft": 4096, "window": 2048, "hop": 256},
        {"low": 500.0, "high": 9000.0, "power": 2, "decibel": 10}, {"decibel": 20},
    ])  # fmt: skip
    def test_is_librosas(self, wav, options):
        recipe = logmel.Recipe(**options)
        path, samples = wav(22_050)
        spectrum = np.stack([  # by the definition, frame by frame, in float64
            np.abs(np.fft.rfft(samples[i : i + recipe.window] * np.hanning(recipe.window + 1)[:-1], recipe.n_fft))
            for i in range(0, len(samples) - recipe.window + 1, recipe.hop)
        ])  # fmt: skip
        bank = librosa.filters.mel(
            sr=22_050, n_fft=recipe.n_fft, n_mels=recipe.mels, fmin=recipe.low, fmax=recipe.upper, dtype=np.float64
        )
        expected = recipe.decibel * np.log10(np.maximum(spectrum**recipe.power @ bank.T, 1e-5))
        found = whole(recipe, path)
        assert found.shape == (recipe.count_frames(path, len(samples)), recipe.mels)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_10_seconds_are_427_frames_and_the_hop_is_the_hop(self, wav):
        path, samples = wav(22_050, 10.0)
        assert len(whole(logmel.Recipe(), path)) == 427
        assert len(whole(logmel.Recipe(hop=256), path)) == (220_500 - 2048) // 256 + 1
        assert len(samples) == 220_500

    def test_half_a_decibel_is_the_largest_error_of_the_store(self, wav):
        recipe = logmel.Recipe()
        values = whole(recipe, wav(22_050)[0])
        codes = recipe.encoding.encode(values)
        np.testing.assert_allclose(codes * 0.5 + recipe.encoding.add_offset, values, atol=0.2501)
        assert recipe.encoding.fill_code == 0
        assert recipe.encoding.fill == pytest.approx(-50)

    @pytest.mark.parametrize(("recipe", "pitches"), [
        (logmel.Recipe(), (200, 3000)),
        (logmel.Recipe(sample_rate=32_000, window=1024, n_fft=1024, power=2, floor=1e-10), (300, 1000)),
        (threewindows.Recipe(), (500, 3000)), (passau.Recipe(clean="none"), (2500, 7000)),
        (vggish.Recipe(), (300, 3000)),
    ])  # fmt: skip
    def test_the_loudest_tone_can_be_stored(self, recipe, pitches, tmp_path):
        """A full scale sine is below the last code, and an error is never more than half a step."""
        rate = recipe.sample_rate
        for pitch in pitches:
            tone = np.rint(32_767 * np.sin(2 * np.pi * pitch * np.arange(rate) / rate)).astype(np.int16)
            values = whole(recipe, write_wav(tmp_path / "tone.wav", tone, rate))
            codes = recipe.encoding.encode(values)
            assert codes.max() <= 255
            decoded = codes * recipe.encoding.scale_factor + recipe.encoding.add_offset
            np.testing.assert_allclose(decoded, values, atol=recipe.encoding.scale_factor * 0.501)

    @pytest.mark.parametrize(("options", "named"), [
        ({"n_fft": 1024}, "features.n_fft"), ({"high": 12_000.0}, "features.high"), ({"mels": 2000}, "features.mels"),
        ({"hop": 1025, "window": 1024}, "features.hop"),
        ({"low": 5000.0, "high": 4000.0}, "features.high"), ({"n_fft": 1 << 40, "window": 2048}, "features.n_fft"),
        ({"mels": 10**30}, "features.mels"),
    ])  # fmt: skip
    def test_impossible_options(self, options, named):
        with pytest.raises(ConfigError, match=named):
            open_recipe(Features(recipe="logmel", options=options))

    def test_frames_leave_nothing_out(self):
        with pytest.raises(ConfigError, match=r"features\.hop\. Received: 600\. Expected: at most 512"):
            open_recipe(Features(recipe="sprengel2016", options={"hop": 600}))


class TestFine:
    """The second channel of short windows, with the options of best.toml."""

    plain = logmel.Recipe(
        sample_rate=32_000, window=1024, n_fft=1024, hop=640, mels=64, low=50.0, high=15_000.0, power=2, floor=1e-9
    )

    def test_by_its_definition(self, wav):
        """8 bands of librosa every 2.5 ms, windows of 5 ms in the middle of a frame; the first channel is as ever."""
        recipe = dataclasses.replace(self.plain, fine=8)
        path, samples = wav(32_000, 3.0)
        found = whole(recipe, path)
        assert found.shape == (recipe.count_frames(path, len(samples)), 64, 2) == (len(found), *recipe.shape)
        np.testing.assert_array_equal(found[..., 0], whole(self.plain, path))
        bank = librosa.filters.mel(sr=32_000, n_fft=160, n_mels=8, fmin=50, fmax=15_000, dtype=np.float64)
        short, long = np.hanning(161)[:-1], np.hanning(1025)[:-1]
        narrow = librosa.filters.mel(sr=32_000, n_fft=1024, n_mels=64, fmin=50, fmax=15_000, dtype=np.float64)
        gain = np.sum(long**2) / np.sum(short**2) * narrow.sum(axis=1).mean() / bank.sum(axis=1).mean()
        for frame in (0, 100, len(found) - 1):
            for k in (0, 3, 7):
                start = frame * 640 + (1024 - 720) // 2 + k * 80
                spectrum = np.abs(np.fft.rfft(samples[start : start + 160] * short)) ** 2
                expected = 10 * np.log10(np.maximum(gain * bank @ spectrum, 1e-9))
                np.testing.assert_allclose(found[frame, k::8, 1], expected, atol=2e-3)

    @pytest.mark.parametrize("options", [
        {}, {"power": 1, "floor": 1e-5}, {"fine": 4}, {"fine": 16}, {"n_fft": 2048}, {"scale": "htk", "low": 300.0},
    ])  # fmt: skip
    def test_noise_is_as_loud_in_both_channels(self, tmp_path, options):
        """White noise within 1 dB; and a tone of full scale is no louder than what can be stored."""
        recipe = dataclasses.replace(self.plain, **{"fine": 8} | options)
        noise = np.random.default_rng(0).normal(0, 2000, 160_000).astype(np.int16)
        loud, soft = whole(recipe, write_wav(tmp_path / "noise.wav", noise, 32_000)).mean(axis=(0, 1))
        slack = 1.0 if recipe.scale == "slaney" else 3.0  # bands of HTK are the louder the wider they are
        assert abs(loud - soft) < slack
        for pitch in (400, 1000, 3000, 9000):
            tone = np.rint(32_767 * np.sin(2 * np.pi * pitch * np.arange(16_000) / 32_000)).astype(np.int16)
            heard = whole(recipe, write_wav(tmp_path / "tone.wav", tone, 32_000))
            assert recipe.encoding.encode(heard).max() <= 255
            assert heard[..., 1].max() < recipe.highest

    def test_a_click_is_in_the_windows_that_hold_it(self, tmp_path):
        samples = np.zeros(32_000, np.int16)
        samples[640 * 20 + 152 + 3 * 80 + 110] = 30_000  # in the second half of window 3 and the first of window 4
        recipe = dataclasses.replace(self.plain, fine=8)
        found = whole(recipe, write_wav(tmp_path / "click.wav", samples, 32_000))
        heard = (found[..., 1] > recipe.lowest).reshape(-1, 8, 8).any(axis=1)
        assert np.argwhere(heard).tolist() == [[20, 3], [20, 4]]

    @pytest.mark.parametrize(("options", "reason"), [
        ({"fine": 7}, r"divisor of features\.mels = 64"), ({"fine": 64}, ""),
        ({"fine": 8, "hop": 644}, r"divisor of features\.hop = 644"),
        ({"fine": 8, "hop": 960}, "features.window of 1080 samples"),
        ({"fine": 32, "high": 1000.0, "n_fft": 4096}, "wider range.*some of 2 bands"),
    ])  # fmt: skip
    def test_what_does_not_fit_is_refused(self, options, reason):
        make = dict(dataclasses.asdict(self.plain), **options)
        if reason:
            with pytest.raises(
                ConfigError, match=rf"features\.fine\. Received: {options['fine']}\. Expected: .*{reason}"
            ):
                open_recipe(Features(recipe="logmel", options=make))
        else:
            assert open_recipe(Features(recipe="logmel", options=make)).shape == (64, 2)

    def test_passau_has_it_too(self, wav):
        recipe = passau.Recipe(clean="none", hop=512, window=1024, n_fft=1024, mels=64, fine=8)
        assert whole(recipe, wav(32_000, 2.0)[0]).shape[1:] == (64, 2)

    def test_recipes_without_it_keep_their_name(self):
        before = json.loads(describe(self.plain, "logmel"))
        assert "fine" not in before
        assert before["recipe"] == "logmel"
        assert json.loads(describe(dataclasses.replace(self.plain, fine=8), "logmel")) == before | {"fine": 8}


def test_vggish_by_its_definition(wav):
    path, samples = wav(16_000, 3.0)
    frames = np.stack([samples[i : i + 400] for i in range(0, len(samples) - 399, 160)])
    periodic = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    magnitudes = np.abs(np.fft.rfft(frames * periodic, 512))
    mel = 1127 * np.log(1 + np.linspace(0, 8000, 257) / 700)
    corners = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    bank = np.zeros((257, 64))
    for band in range(64):
        low, centre, high = corners[band : band + 3]
        rise, fall = (mel - low) / (centre - low), (high - mel) / (high - centre)
        bank[:, band] = np.maximum(0, np.minimum(rise, fall))
    bank[0] = 0
    found = whole(vggish.Recipe(), path)
    np.testing.assert_allclose(found, np.log(magnitudes @ bank + 0.01), atol=1e-4)
    assert len(found[:96]) == 96


def test_pcen_is_the_formula_started_at_the_first_frame(wav):
    """Wang et al. 2017 (arXiv 1607.05666), equations 1 and 2, with the numbers and the smoothing of librosa.pcen."""
    recipe = pcen.Recipe()
    path, _ = wav(22_050)
    energies = np.concatenate(list(recipe.energies(path))).astype(np.float64) * 2**31
    share = (np.sqrt(1 + 4 * (0.4 * 22_050 / 512) ** 2) - 1) / (2 * (0.4 * 22_050 / 512) ** 2)
    assert recipe.smoothing == pytest.approx(share)
    level, expected = energies[0], []
    for frame in energies:
        level = (1 - share) * level + share * frame
        expected.append((frame / (1e-6 + level) ** 0.98 + 2) ** 0.5 - 2**0.5)
    np.testing.assert_allclose(whole(recipe, path), expected, rtol=1e-3, atol=1e-4)


class TestThreeWindows:
    def test_channels_are_windows_around_one_instant(self, wav):
        recipe = threewindows.Recipe()
        path, samples = wav(22_050)
        found = whole(recipe, path)
        assert found.shape[1:] == (299, 3) == recipe.shape
        bank = mel_matrix(22_050, 2646, 320, 0, 11_025, "htk")[:, 21:]
        for channel, length in enumerate((2646, 330, 82)):
            for frame in (0, 40, len(found) - 1):
                middle = frame * 369 + 2646 // 2
                start = middle - length // 2
                taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
                spectrum = np.abs(np.fft.rfft(samples[start : start + length] * taper * (1323 / taper.sum()), 2646))
                expected = 20 * np.log10(np.maximum(spectrum @ bank, 1e-5))
                np.testing.assert_allclose(found[frame, :, channel], expected, atol=5e-3)

    def test_5_seconds_fill_299_frames(self):
        assert round(5 * threewindows.Recipe().frame_rate) == 299


class TestSprengel:
    def test_log_magnitudes(self, wav):
        path, samples = wav(22_050, 2.0)
        frames = np.stack([samples[i : i + 512] for i in range(0, len(samples) - 511, 128)])
        expected = np.log10(np.maximum(np.abs(np.fft.rfft(frames * np.hanning(513)[:-1])), 1e-6))
        np.testing.assert_allclose(whole(sprengel2016.Recipe(), path), expected[:, :256], atol=1e-3)

    def test_active_frames_by_loops(self):
        rng = np.random.default_rng(3)
        magnitudes = rng.exponential(1.0, (60, 40))
        magnitudes[20:30, 10:22] += 20
        pixels = np.zeros(magnitudes.shape, bool)
        for t in range(60):
            for f in range(40):
                value = magnitudes[t, f]
                pixels[t, f] = value > 3 * np.median(magnitudes[:, f]) and value > 3 * np.median(magnitudes[t])
        opened = scipy.ndimage.binary_opening(pixels, np.ones((4, 4)))
        column = opened.any(axis=1)
        for _ in range(2):
            column = scipy.ndimage.binary_dilation(column, np.ones(4))
        np.testing.assert_array_equal(active_frames(magnitudes, 3.0), column)
        assert column[20:30].all()
        assert not column[:14].any()

    def test_what_is_as_loud_as_the_median_is_no_signal(self):
        """A hum is as loud as its bins ever are, a click as all bins of its frames; whatever the factor."""
        hum = np.full((60, 60), 1e-6)
        hum[:, 10:20] = 1.0
        assert not active_frames(hum, 1.0).any()
        assert not active_frames(hum.T, 1.0).any()

    def test_medians_are_over_so_many_seconds(self):
        assert sprengel2016.Recipe(median_seconds=10).new_mask().stretch == 1723  # 22,050 / 128 frames a second

    def test_signal_noise_and_neither(self, monkeypatch):
        answers = {3.0: [True, False, False, False], 2.5: [True, True, False, False]}
        monkeypatch.setattr("preprocess.mask.active_frames", lambda magnitudes, factor: np.array(answers[factor]))
        mask = SignalNoiseMask(3.0, 2.5, 100)
        mask.add(np.zeros((4, 5), np.float32))
        cells = mask.cells()
        assert cells.ravel().tolist() == [1, 2, 0, 0]
        assert noise_columns(cells, np.array([0, 5])).tolist() == [False, False, True, True]

    @pytest.mark.parametrize("block", [30, 240])
    def test_stretches_bound_the_memory(self, block):
        mask = SignalNoiseMask(3.0, 2.5, 50)
        for _ in range(10):
            mask.add(np.random.default_rng(0).normal(size=(block, 8)).astype(np.float32))
            assert sum(map(len, mask.waiting)) < 75
        assert mask.cells().shape == (10 * block, 1)

    @pytest.mark.parametrize(
        ("frames", "lengths"),
        [(10, [10]), (60, [60]), (74, [74]), (76, [50, 26]), (120, [50, 70]), (130, [50, 50, 30]), (300, [50] * 6)],
    )
    def test_no_stretch_is_measured_by_few_frames(self, monkeypatch, frames, lengths):
        """Medians of what is song throughout would make noise of it."""
        measured = []

        def active(magnitudes, factor):
            measured.append(len(magnitudes))
            return np.zeros(len(magnitudes), bool)

        monkeypatch.setattr("preprocess.mask.active_frames", active)
        mask = SignalNoiseMask(3.0, 2.5, 50)
        for low in range(0, frames, 7):
            mask.add(np.zeros((min(7, frames - low), 4), np.float32))
        assert mask.cells().shape == (frames, 1)
        assert measured[::2] == lengths

    def test_a_tone_burst_is_signal_and_the_rest_noise(self, tmp_path):
        rate, rng = 22_050, np.random.default_rng(0)
        samples = rng.normal(0, 30, 6 * rate)
        time = np.arange(rate) / rate
        samples[2 * rate : 3 * rate] += 6000 * np.sin(2 * np.pi * (2000 * time + 1500 * time**2))
        recipe = sprengel2016.Recipe()
        mask = recipe.new_mask()
        for block in recipe.blocks(write_wav(tmp_path / "a.wav", samples.astype(np.int16), rate)):
            mask.add(block)
        cells = mask.cells().ravel()
        frame = rate / 128
        assert (cells[int(2.1 * frame) : int(2.9 * frame)] == 1).mean() > 0.95
        assert (cells[: int(1.9 * frame)] == 0).mean() > 0.8
        assert (cells[int(3.1 * frame) :] == 0).mean() > 0.8


class TestSilence:
    """Stretches that hold nothing but the last bit of 16 are left out, with the options of best.toml."""

    plain = logmel.Recipe(sample_rate=32_000, window=1024, n_fft=1024, hop=640, mels=64, power=2, floor=1e-10)

    def cells(self, folder, samples, silence=-70.0, floor=1e-10) -> list[int]:
        recipe = dataclasses.replace(self.plain, silence=silence, floor=floor)
        mask = recipe.new_mask()
        for block in recipe.blocks(write_wav(folder / "a.wav", np.rint(samples).astype(np.int16), 32_000)):
            mask.add(block)
        return mask.cells().ravel().tolist()

    def test_dither_goes_and_quiet_sounds_stay(self, tmp_path):
        """A second each of noise, dither (three times), a whistle of 4 LSB and dither, in cells of 0.2 s."""
        rng = np.random.default_rng(0)
        second = np.arange(32_000) / 32_000
        dither = rng.integers(-1, 2, (5, 32_000))
        parts = [rng.normal(0, 20, 32_000), *dither[:3], 4 * np.sin(2 * np.pi * 3000 * second) + dither[3], dither[4]]
        found = self.cells(tmp_path, np.concatenate(parts))
        # One cell of silence stays beside a sound; the last frame before the whistle reaches into it.
        assert found == [1] * 6 + [2] * 12 + [1] * 8 + [2] * 4

    def test_a_value_at_the_level_is_heard(self):
        """And the cells beside it."""
        mask, block = SilenceMask(10, -70.0, -100.0), np.full((70, 8), -70.5, np.float32)
        block[35, 3] = -70.0
        mask.add(block)
        assert mask.cells().ravel().tolist() == [2, 2, 1, 1, 1, 2, 2]

    def test_a_quiet_recording_is_not_silence(self, tmp_path):
        """A level above all of it leaves out what lies at the floor, not the whole recording."""
        second, rng = np.arange(32_000) / 32_000, np.random.default_rng(0)
        quiet = 3 * np.sin(2 * np.pi * 3000 * second) + rng.integers(-1, 2, 32_000)
        parts = [quiet, np.zeros(64_000), rng.integers(-1, 2, 32_000)]
        options = {"silence": -20.0, "floor": 1e-7}
        assert self.cells(tmp_path, np.concatenate(parts), **options) == [1] * 6 + [2] * 14
        louder = [*parts, 2000 * np.sin(2 * np.pi * 3000 * second)]
        assert self.cells(tmp_path, np.concatenate(louder), **options) == [2] * 18 + [1] * 7
        assert set(self.cells(tmp_path, np.zeros(64_000), **options)) == {2}

    def test_without_the_option_everything_is_kept(self):
        mask = self.plain.new_mask()
        mask.add(np.full((70, 64), -100, np.float32))
        assert mask.cells().ravel().tolist() == [1, 1, 1]

    @pytest.mark.parametrize(("kind", "floor"), [(logmel, -50), (threewindows, -100), (passau, -100)])
    def test_a_level_that_nothing_lies_below_is_refused(self, kind, floor):
        for silence in (floor - 1.0, float(floor)):
            with pytest.raises(ConfigError, match=rf"features\.silence.*more than {floor} dB"):
                kind.Recipe(silence=silence)
        kind.Recipe(silence=floor + 1.0)

    def test_a_recipe_whose_values_have_changed_has_another_name(self):
        for name, changed, options in (
            ("sprengel2016", True, {}), ("passau", True, {}), ("passau", False, {"clean": "none"}),
            ("logmel", False, {}), ("birdclef2016", False, {}), ("birdclef2016", True, {"n_fft": 511, "bins": 256}),
        ):  # fmt: skip
            recipe = open_recipe(Features(recipe=name, options=options))
            assert ('"revision": 2' in describe(recipe, name)) == changed
        assert '"revision": 3' in describe(sprengel2016.Recipe(median_seconds=1), "sprengel2016")

    def test_recipes_with_larger_steps_have_another_name(self):
        """What a byte means is part of what a store holds; half a decibel need not be said."""
        recipe = threewindows.Recipe()
        assert json.loads(describe(recipe, "threewindows"))["step"] == recipe.encoding.scale_factor != 0.5
        assert "step" not in json.loads(describe(logmel.Recipe(), "logmel"))

    def test_recipes_without_it_keep_their_name(self):
        """So that features of before stay valid."""
        before = describe(logmel.Recipe(), "logmel")
        assert "silence" not in before
        assert describe(logmel.Recipe(silence=-40.0), "logmel") != before


class TestWaveform:
    def test_the_samples_come_back(self, wav):
        path, samples = wav(22_050)
        frames = whole(waveform.Recipe(), path)
        assert frames.shape == (-(-len(samples) // 441), 441)
        assert frames.dtype == np.int16
        np.testing.assert_array_equal(frames.ravel()[: len(samples)], np.rint(samples * 32768))
        assert not frames.ravel()[len(samples) :].any()

    @pytest.mark.parametrize("size", [1, 440, 441, 442, 300_000])
    def test_count_is_what_comes(self, tmp_path, size):
        path = write_wav(tmp_path / "a.wav", sweep(size / 22_050 + 1, 22_050)[:size], 22_050)
        for recipe in (waveform.Recipe(), waveform.Recipe(trim=True, peak=True)):
            assert recipe.count_frames(path, size) == len(whole(recipe, path))

    def test_trim_and_peak(self, tmp_path):
        samples = np.concatenate([np.zeros(1000), [100, -200, 0, 50], np.zeros(500)]).astype(np.int16)
        path = write_wav(tmp_path / "a.wav", samples, 22_050)
        frames = whole(waveform.Recipe(trim=True, peak=True, hop=4), path)
        assert frames.tolist() == [[16384, -32767, 0, 8192]]

    def test_a_single_bit_beside_full_scale_stays(self, tmp_path):
        """1e-5 of the peak is less than any sample but 0."""
        samples = np.concatenate([np.zeros(1000), [1, 0, 32_000, -1], np.zeros(500)]).astype(np.int16)
        path = write_wav(tmp_path / "a.wav", samples, 22_050)
        assert whole(waveform.Recipe(trim=True, hop=4), path).tolist() == [[1, 0, 32_000, -1]]

    def test_silence_stays(self, tmp_path):
        path = write_wav(tmp_path / "a.wav", np.zeros(1000, np.int16), 22_050)
        recipe = waveform.Recipe(trim=True, peak=True)
        assert not whole(recipe, path).any()
        assert recipe.count_frames(path, 1000) == 3


class TestCleaning:
    rate = 32_000

    def test_noisereduce_lowers_the_noise_more_than_the_song(self):
        rng, time = np.random.default_rng(0), np.arange(3 * self.rate) / self.rate
        noise = rng.normal(0, 300, len(time)).astype(np.float32)
        burst = (time > 1.4) & (time < 1.55)  # the gate follows the level of seconds: a long tone would be noise
        song = np.where(burst, 8000 * np.sin(2 * np.pi * (2000 + 9000 * (time - 1.4)) * time), 0).astype(np.float32)
        found = cleaning.reduce_noise(noise + song, self.rate)
        inside = slice(int(1.43 * self.rate), int(1.52 * self.rate))
        left = np.std(found[: self.rate // 2]) / np.std(noise)
        assert left < 0.3
        assert np.std(found[inside]) / np.std((noise + song)[inside]) > 2 * left
        assert not cleaning.reduce_noise(np.zeros(1000, np.float32), self.rate).any()

    def test_high_pass_has_3_decibels_at_its_corner_and_30_an_octave_below(self):
        time = np.arange(self.rate) / self.rate
        gains = [
            np.std(cleaning.high_pass(np.sin(2 * np.pi * f * time).astype(np.float32), self.rate, 1000)[8000:])
            * np.sqrt(2)
            for f in (4000, 1000, 500)
        ]
        np.testing.assert_allclose(20 * np.log10(gains), [0, -3.01, -10 * np.log10(1 + 2**10)], atol=0.15)

    def test_long_silence_goes_and_short_silence_stays(self):
        loud, quiet = np.full(self.rate, 1000, np.float32), np.zeros(self.rate * 3, np.float32)
        found = cleaning.remove_silence(np.concatenate([loud, quiet, loud]), self.rate)
        assert len(found) == self.rate * 2.2  # 0.1 s stay at both ends
        short = np.concatenate([loud, quiet[: self.rate // 2], loud])
        assert len(cleaning.remove_silence(short, self.rate)) == len(short)
        assert len(cleaning.remove_silence(np.concatenate([quiet, loud, quiet]), self.rate)) == self.rate * 1.2
        assert len(cleaning.remove_silence(quiet, self.rate)) == len(quiet)
        nearly = np.concatenate([quiet[: self.rate * 92 // 100], loud, quiet[: self.rate * 92 // 100]])
        assert len(cleaning.remove_silence(nearly, self.rate)) == len(nearly)  # 0.92 s, at the ends too

    def test_normalise_filter_and_compress_by_hand(self):
        assert cleaning.normalise(np.array([1, -4], np.float32)).tolist() == [8191.75, -32767]
        assert not cleaning.normalise(np.zeros(3, np.float32)).any()
        assert cleaning.filter_amplitude(np.array([327, 328, -400, 1], np.float32)).tolist() == [0, 328, -400, 0]
        found = cleaning.compress(np.array([32768, 3276.8, 300], np.float32))
        np.testing.assert_allclose(found, [32768 * 10 ** (-15 / 20), 3276.8, 300], rtol=1e-5)  # 20 dB above: 5 stay

    @pytest.mark.parametrize("how", ["none", "noisereduce", "chain"])
    def test_recipe(self, tmp_path, how):
        """With a silence of 2 s in the middle, which the chain cuts down to 0.2 s."""
        samples = sweep(4.0, self.rate)
        samples[self.rate : 3 * self.rate] = 0
        path = write_wav(tmp_path / "a.wav", samples, self.rate)
        recipe = passau.Recipe(clean=how)
        found = whole(recipe, path)
        assert found.shape == (recipe.count_frames(path, len(samples)), 128)
        assert len(found) / recipe.frame_rate == pytest.approx(2.2 if how == "chain" else 4.0, abs=0.1)
        assert np.isfinite(found).all()
        if how == "none":
            np.testing.assert_allclose(
                found, whole(logmel.Recipe(sample_rate=32_000, low=2000.0, high=8000.0, power=2, floor=1e-10), path)
            )

    def test_long_recordings_are_cleaned_in_stretches(self, monkeypatch):
        monkeypatch.setattr(cleaning, "STRETCH_SECONDS", 1)
        chunks = [np.ones(self.rate // 3, np.int16)] * 10
        parts = list(cleaning.clean(chunks, self.rate, "none", 1000))
        assert max(map(len, parts)) < 1.5 * self.rate
        assert min(map(len, parts)) > 0.4 * self.rate
        assert sum(map(len, parts)) == 10 * (self.rate // 3)
