"""render: pictures and films of episodes, checked by other programs' decoders where they are here."""

import struct
import zlib

import numpy as np
import pytest
from gymnasium import spaces
from worldmodel.data import Replay, contact_sheet, save_gif, save_mp4, save_png
from worldmodel.data.render import GAP


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def decode_png(data):
    """A PNG with filter 0 only, by its definition; checks every CRC."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, []
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body, crc = data[at + 8 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        assert struct.unpack(">I", crc)[0] == zlib.crc32(kind + body)
        chunks.append((kind, body))
        at += 12 + size
    assert [k for k, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    W, H, depth, color = struct.unpack(">IIBB", chunks[0][1][:10])
    C = {0: 1, 2: 3, 6: 4}[color]
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), np.uint8).reshape(H, 1 + W * C)
    assert depth == 8 and not lines[:, 0].any()
    return lines[:, 1:].reshape(H, W, C)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_holds_every_pixel(tmp_path, channels):
    image = noise(13, 7, channels)
    save_png(tmp_path / "deep" / "a.png", image)
    assert np.array_equal(decode_png((tmp_path / "deep" / "a.png").read_bytes()), image)
    Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install worldmodel[video]")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "a.png")).reshape(image.shape), image)


def test_png_refuses_what_it_cannot_hold(tmp_path):
    for wrong in (noise(4, 4, 2), noise(4), np.zeros((4, 4, 3))):
        with pytest.raises(ValueError, match="save_png"):
            save_png(tmp_path / "a.png", wrong)


def test_a_contact_sheet_shows_first_and_last_frames(tmp_path):
    source = [{"frames": noise(T + 1, 16, 20, 3, seed=T), "actions": np.zeros(T, int)} for T in (5, 1, 30)]
    replay = Replay.from_arrays(tmp_path / "r", spaces.Discrete(2), source)
    sheet = contact_sheet(replay, tmp_path / "sheet.png", rows=3, columns=4, scale=2)
    assert sheet.shape == (3 * (32 + GAP) + GAP, 4 * (40 + GAP) + GAP, 3)
    assert np.array_equal(decode_png((tmp_path / "sheet.png").read_bytes()), sheet)
    for row, given in enumerate(source):
        y = GAP + row * (32 + GAP)
        count = min(4, len(given["frames"]))
        for column, t in ((0, 0), (count - 1, len(given["frames"]) - 1)):
            x = GAP + column * (40 + GAP)
            assert np.array_equal(sheet[y : y + 32 : 2, x : x + 40 : 2], given["frames"][t])
    empty = Replay.create(tmp_path / "e", spaces.Discrete(2), (16, 20, 3))
    with pytest.raises(ValueError, match="no episodes"):
        contact_sheet(empty)


@pytest.mark.parametrize("channels, scale", [(3, 1), (1, 1), (3, 3)])
def test_mp4_holds_every_pixel(tmp_path, channels, scale):
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install worldmodel[video]")
    frames = noise(9, 30, 22, channels)
    save_mp4(tmp_path / "a.mp4", iter(frames), fps=10, scale=scale)
    with av.open(str(tmp_path / "a.mp4")) as file:
        back = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
        assert float(file.streams.video[0].average_rate) == 10
    wanted = np.broadcast_to(frames, (9, 30, 22, 3)).repeat(scale, 1).repeat(scale, 2)
    assert np.array_equal(back, wanted)


def test_gif_is_exact_where_the_colours_fit(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install worldmodel[video]")
    palette = noise(200, 3, seed=1)
    frames = palette[np.random.default_rng(2).integers(0, 200, (6, 24, 20))]
    save_gif(tmp_path / "a.gif", frames, fps=10)
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 6 and film.info["duration"] == 100 and film.info["loop"] == 0
        for t in range(6):
            film.seek(t)
            assert np.array_equal(np.asarray(film.convert("RGB")), frames[t])


def test_an_episode_as_a_film(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install worldmodel[video]")
    frames = noise(6, 16, 20, 3)
    replay = Replay.from_arrays(tmp_path / "r", None, [{"frames": frames}], fps=12)
    replay.film(0, tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert np.array_equal(np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)]), frames)
        assert float(file.streams.video[0].average_rate) == 12
    replay.film(0, tmp_path / "a.gif")
    assert replay.contact_sheet(tmp_path / "a.png").shape[2] == 3
    with pytest.raises(ValueError, match="film"):
        replay.film(0, tmp_path / "a.avi")


def test_no_frames_are_an_error(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install worldmodel[video]")
    with pytest.raises(ValueError, match="no frames"):
        save_mp4(tmp_path / "a.mp4", [])
    with pytest.raises(ValueError, match="no frames"):
        save_gif(tmp_path / "a.gif", [])
