"""The log power spectral density against SciPy, and reading WAV in blocks."""

import struct
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.audio import AudioError
from preprocess.spectrogram import count_frames, count_samples, cut_blocks, log_psd, read_samples
from tests.preprocess import naive

SETTINGS = (16_000, 512, 256)  # sample rate, n_fft, hop


def read_blocks(path, sample_rate, block_frames, n_fft, hop):
    return cut_blocks(read_samples(path, sample_rate), block_frames, n_fft, hop)


def noise(count: int, sigma: float = 1000, seed: int = 0) -> np.ndarray:
    return (sigma * np.random.default_rng(seed).standard_normal(count)).round().astype(np.int16)


def sine(count: int, level: float, frequency: float) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(count) / 16_000)).round().astype(np.int16)


def one_shot(samples: np.ndarray, bins: int = 200) -> np.ndarray:
    return log_psd(samples, *SETTINGS, bins, naive.FLOOR)


class TestLogPsd:
    @pytest.mark.parametrize(
        ("samples", "tolerance"),
        [
            (noise(512 + 256 * 40), 2e-5),
            (noise(512 + 256 * 10, sigma=3), 2e-5),
            (noise(512 + 256 * 10, sigma=8000), 2e-5),
            (sine(512 + 256 * 20, 100, 3000), 1e-4),
            (np.full(512 + 256 * 5, 12_345, np.int16), 0.01),
            (np.arange(512 + 256 * 60, dtype=np.int16), 0.01),
            # float32 next to a signal 11 decades louder: still within half a step of the uint8 codes
            (sine(512 + 256 * 20, 32_000, 1234.5) + noise(512 + 256 * 20, sigma=2), 0.025),
        ],
        ids=["noise", "faint noise", "loud noise", "faint sine", "constant", "ramp", "full-scale sine"],
    )
    @pytest.mark.parametrize("bins", [1, 200, 257])
    def test_equals_scipy(self, samples, tolerance, bins):
        found, expected = one_shot(samples, bins), naive.log_psd(samples, bins)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        audible = expected > -2
        np.testing.assert_allclose(found[audible], expected[audible], rtol=0, atol=min(tolerance, 1e-3))

    @pytest.mark.parametrize(("rate", "n_fft", "hop"), [(22_050, 1024, 300), (8000, 64, 64), (44_100, 100, 7)])
    def test_other_sizes_equal_scipy(self, rate, n_fft, hop):
        samples = noise(n_fft + hop * 9)
        found = log_psd(samples, rate, n_fft, hop, n_fft // 2 + 1, naive.FLOOR)
        np.testing.assert_allclose(found, naive.log_psd(samples, n_fft // 2 + 1, rate, n_fft, hop), rtol=0, atol=2e-5)

    @pytest.mark.parametrize("n_fft", [511, 512])
    def test_the_last_bin_is_halved_at_the_nyquist_frequency_alone(self, n_fft):
        samples = noise(n_fft * 9)
        found = log_psd(samples, 16_000, n_fft, n_fft, n_fft // 2 + 1, naive.FLOOR)
        expected = naive.log_psd(samples, n_fft // 2 + 1, 16_000, n_fft, n_fft)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)

    def test_white_noise_has_the_level_of_its_variance(self):
        """E log10 of an exponential with mean 2 sigma^2 / fs: its logarithm less Euler's constant / ln 10."""
        mean = one_shot(noise(16_000 * 20))[:, 1:].mean()
        assert mean == pytest.approx(np.log10(2 * 1000**2 / 16_000) - np.euler_gamma / np.log(10), abs=0.01)
        assert round(float(mean), 2) == pytest.approx(1.84, abs=0.011)

    def test_full_scale_sine_peaks_at_its_power(self):
        """A sine at a bin's centre: A^2 / 2 over the window's noise bandwidth, sum(w^2) fs / sum(w)^2 Hz."""
        window = np.hanning(512)
        bandwidth = 16_000 * np.sum(window**2) / np.sum(window) ** 2
        peak = one_shot(sine(512, 32_767, 64 * 31.25))[0]
        assert peak.argmax() == 64
        assert peak[64] == pytest.approx(np.log10(32_767**2 / 2 / bandwidth), abs=1e-3)

    def test_digital_silence_is_the_floor(self):
        np.testing.assert_allclose(one_shot(np.zeros(512 + 256 * 3, np.int16)), naive.FLOOR, atol=1e-6)

    def test_nothing_is_below_the_floor(self):
        spectrogram = one_shot(sine(5120, 20_000, 500) * (np.arange(5120) % 2048 < 1024))
        assert spectrogram.min() >= np.float32(naive.FLOOR) - 1e-6
        assert spectrogram.max() > 5


class TestCountFrames:
    @pytest.mark.parametrize(
        ("samples", "frames"),
        [(1, 1), (511, 1), (512, 1), (513, 1), (767, 1), (768, 2), (1023, 2), (1024, 3), (16_000, 61), (80_000, 311)],
    )
    def test_by_hand(self, samples, frames):
        assert count_frames(samples, 512, 256) == frames

    @given(samples=st.integers(513, 10**9))
    def test_formula(self, samples):
        assert count_frames(samples, 512, 256) == (samples - 256) // 256


class TestBlocks:
    @given(count=st.integers(1, 6000), block_frames=st.integers(1, 25), seed=st.integers(0, 3))
    @settings(max_examples=150)
    def test_any_block_size_gives_the_frames_of_one_shot(self, tmp_path_factory, count, block_frames, seed):
        samples = noise(count, seed=seed)
        path = naive.write_wav(tmp_path_factory.getbasetemp() / "blocks.wav", samples)
        blocks = list(read_blocks(path, 16_000, block_frames, 512, 256))
        frames = [(len(block) - 512) // 256 + 1 for block in blocks]
        assert all((len(block) - 512) % 256 == 0 and block.dtype == np.int16 for block in blocks)
        assert frames[:-1] == [block_frames] * (len(blocks) - 1)
        assert sum(frames) == count_frames(count_samples(path, 16_000), 512, 256)
        whole = np.pad(samples, (0, max(0, 512 - count)))
        np.testing.assert_allclose(np.concatenate([one_shot(block) for block in blocks]), one_shot(whole), atol=1e-5)
        np.testing.assert_array_equal(blocks[-1][-256:], whole[sum(frames) * 256 : (sum(frames) + 1) * 256])

    @pytest.mark.parametrize("count", [1, 100, 511])
    def test_short_file_is_padded_with_zeros(self, tmp_path, count):
        samples = noise(count)
        (block,) = read_blocks(naive.write_wav(tmp_path / "short.wav", samples), 16_000, 30, 512, 256)
        assert block.tolist() == samples.tolist() + [0] * (512 - count)


def pcm(samples: np.ndarray, rate: int = 16_000, channels: int = 1, kind: int = 1) -> bytes:
    """Return a canonical WAV file of 44 bytes and the samples."""
    width, data = samples.dtype.itemsize, samples.tobytes()
    fields = (16, kind, channels, rate, rate * channels * width, channels * width, 8 * width)
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", *fields) + b"data" + struct.pack("<I", len(data))
    return b"RIFF" + struct.pack("<I", len(header) + len(data)) + header + data


class TestUnusableFiles:
    @staticmethod
    def read(path):
        count_samples(path, 16_000)
        return list(read_blocks(path, 16_000, 30, 512, 256))

    def test_the_good_one(self, tmp_path):
        path = tmp_path / "a.wav"
        path.write_bytes(pcm(noise(5000)))
        assert sum(len(block) for block in self.read(path)) == 18 * 256 + 256

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "damaged_wav"),
            (b"RIFF", "damaged_wav"),
            (b"no wave at all, but text that goes on for a while", "damaged_wav"),
            (pcm(noise(5000))[:30], "damaged_wav"),
            (pcm(noise(0)), "no_samples"),
            (pcm(noise(5000))[:-5000], "truncated"),
            (pcm(noise(5000))[:44], "truncated"),
            (pcm(noise(400))[:-100], "truncated"),
            (pcm(noise(5000), channels=2), "damaged_wav"),
            (pcm(noise(5000), rate=44_100), "damaged_wav"),
            (pcm(noise(5000).astype(np.uint8)), "damaged_wav"),
            (pcm(noise(5000).astype(np.int32)), "damaged_wav"),
            (pcm(noise(5000).astype(np.float32), kind=3), "damaged_wav"),
        ],
        ids=[
            "empty",
            "four bytes",
            "text",
            "half a header",
            "no samples",
            "half the samples",
            "header alone",
            "short and cut",
            "stereo",
            "44.1 kHz",
            "8 bit",
            "32 bit",
            "float",
        ],
    )
    def test_reason(self, tmp_path, content, reason):
        path = tmp_path / "bad.wav"
        path.write_bytes(content)
        with pytest.raises(AudioError) as caught:
            self.read(path)
        assert caught.value.reason == reason

    @pytest.mark.parametrize("count", [400, 5000])
    @pytest.mark.parametrize("missing", [2, 44])
    def test_a_few_missing_bytes_are_noticed(self, tmp_path, count, missing):
        """Before anything is read, and by whoever reads without having counted."""
        path = tmp_path / "cut.wav"
        path.write_bytes(pcm(noise(count))[:-missing])
        for read in (count_samples, lambda path, rate: list(read_samples(path, rate))):
            with pytest.raises(AudioError) as caught:
                read(path, 16_000)
            assert caught.value.reason == "truncated"


def test_a_wav_whose_chunk_leads_out_of_the_file(tmp_path):
    """The wave module ends such a header with a bare RuntimeError."""
    path = tmp_path / "x.wav"
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, 16_000, 0, "NONE", ""))
        stream.writeframes(bytes(3200))
    content = bytearray(path.read_bytes())
    content[36:44] = b"LIST" + (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(content)
    for read in (lambda path: count_samples(path, 16_000), lambda path: list(read_samples(path, 16_000))):
        with pytest.raises(AudioError) as error:
            read(path)
        assert error.value.reason == "damaged_wav"
        assert error.value.detail
