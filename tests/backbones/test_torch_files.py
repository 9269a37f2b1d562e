import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch

from backbones.torch_files import DamagedError, FileError, ForeignError, outline, read

CONTENT = {
    "state_dict": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.tensor(3), c=torch.zeros(0, 4)),
    "half": torch.ones(2, 2, dtype=torch.bfloat16).t(),
    "part": torch.arange(10)[2:8:2],
    "plain": {"text": "é", "number": 3, "fraction": 0.5, "flag": True, "nothing": None, "both": [1, (2, "x")]},
}


@pytest.fixture
def path(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def rewritten(path, change=lambda name, data: data, kind=zipfile.ZIP_STORED, more=()):
    """The same archive with other members."""
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in [*((name, change(name, data)) for name, data in members), *more]:
            archive.writestr(name, data)


def with_pickle(path, text):
    """The same archive with another pickle."""
    rewritten(path, lambda name, data: text if name.endswith("data.pkl") else data)


def test_an_outline_has_shapes_kinds_and_everything_else_but_no_numbers(path):
    found, whole = outline(path), torch.load(path, weights_only=True)
    assert found["plain"] == whole["plain"]
    for ours, theirs in ((found["state_dict"][key], whole["state_dict"][key]) for key in "abc"):
        assert (ours.shape, ours.dtype, ours.is_meta) == (theirs.shape, theirs.dtype, True)
    assert found["half"].stride() == (1, 2)
    assert found["part"].shape == (3,)


def test_what_is_read_is_what_pytorch_reads(path):
    assert str(read(path)) == str(torch.load(path, weights_only=True))


def test_files_of_before_pytorch_1_6_are_read(path):
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    assert str(read(path)) == str(torch.load(path, weights_only=True))
    assert outline(path)["state_dict"]["a"].is_meta


def test_parameters_and_a_modules_state_dict_are_read(path):
    module = torch.nn.BatchNorm2d(3)
    torch.save({"own": module.state_dict(), "parameter": module.weight}, path)
    assert outline(path)["own"]["running_var"].shape == (3,)
    assert read(path)["parameter"].shape == (3,)


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_rejected(path, kind):
    torch.save({"a": torch.zeros(1000)}, path)
    rewritten(path, kind=kind)
    with pytest.raises(FileError, match="compressed"):
        outline(path)


def test_an_encrypted_archive_is_rejected(path):
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 8 : place + 10] = struct.pack("<H", 1)
    path.write_bytes(data)
    with pytest.raises(FileError, match="encrypted"):
        outline(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("a/data/0", b"1234"), "two members with the same name"),
        (("a/code/evil.py", b""), "a member 'a/code/evil.py'"),
        (("../x", b""), r"a member '\.\./x'"),
        (("b/version", b"3"), "several folders"),
    ],
)
def test_foreign_members_are_rejected(path, more, message):
    rewritten(path, more=[more])
    with pytest.raises(FileError, match=message):
        outline(path)


def test_members_that_share_their_bytes_are_rejected(path):
    torch.save({"a": torch.zeros(1000), "b": torch.ones(1000)}, path)
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")  # the last member stands at the place of the one before
    first = data.rindex(b"PK\x01\x02", 0, second)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    with pytest.raises(FileError):
        read(path)


@pytest.mark.parametrize("tensor", [torch.zeros(1).expand(10**9), torch.zeros(3)[:1].expand(2, 2)])
def test_a_tensor_larger_than_its_bytes_is_rejected(path, tensor):
    torch.save({"a": tensor}, path)
    assert path.stat().st_size < 3000
    with pytest.raises(FileError, match="too few values for a tensor"):
        outline(path)


def test_many_tensors_of_the_same_bytes_are_rejected(path):
    shared = torch.zeros(10_000)
    torch.save({str(i): shared[: 10_000 - i] for i in range(100)}, path)
    with pytest.raises(FileError, match="its tensors would take 4 MB"):
        outline(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(4, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(2, dtype=torch.complex64),
        torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8),
    ],
)
def test_kinds_of_tensors_that_no_weights_have_are_rejected(path, tensor):
    torch.save({"a": tensor}, path)
    with pytest.raises(FileError):
        outline(path)


def test_code_is_named_and_not_run(path, tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    torch.save({"a": Evil()}, path)
    with pytest.raises(ForeignError, match=r"more than tensors and plain values \((io|builtins|_io)\.open\)"):
        outline(path)
    assert not (tmp_path / "made").exists()


def looping():
    loop = []
    loop.append(loop)
    return loop


def laughing():
    laughs = ["ha"]
    for _ in range(40):
        laughs = [laughs, laughs]
    return laughs


def attributed():
    state = torch.nn.Linear(1, 1).state_dict()
    state.keys = 5
    return state


@pytest.mark.parametrize(
    ("value", "message"),
    [(looping, "deep"), (laughing, "more than 2000000 values"), (attributed, "sets attributes of a OrderedDict")],
)
def test_structures_that_would_never_end_or_hide_methods_are_rejected(path, value, message):
    torch.save({"a": value()}, path)
    with pytest.raises(FileError, match=message):
        outline(path)


@pytest.mark.parametrize(
    "text",
    [
        b"\x80\x02}q\x00r\xff\xff\xff\x7f.",  # a count of 2**31 objects
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00.",  # 64 GB of bytes
        b"\x80\x02ctorch._dynamo\nreset\n.",
        b"\x80\x02(i__main__\nx\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02Pstorage\n.",
        b"",
        b".",
        b"\x80\x02",
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_rejected_or_plain(path, text):
    with_pickle(path, text)
    try:
        found = outline(path)
    except FileError:
        return
    assert found == {}


def test_damage_is_reported_separately(path):
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(6.0).numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"checksum of .*data/\d+ differs"):
        read(path)


@pytest.mark.parametrize("data", [b"", b"<html>", pickle.dumps({"a": 1}), b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_rejected(path, data):
    path.write_bytes(data)
    with pytest.raises(FileError):
        read(path)


def test_cut_files_are_rejected(path):
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError):
            read(path)


def test_a_storage_that_is_not_its_members_size_is_rejected(path):
    torch.save({"a": torch.zeros(16)}, path)
    text = zipfile.ZipFile(io.BytesIO(path.read_bytes())).read("a/data.pkl")
    with_pickle(path, text.replace(b"K\x10tq", b"J\x00\x00\x10\x00tq"))
    with pytest.raises(FileError, match="tensor 0 needs 4194304 B, but its member has 64 B"):
        outline(path)


@pytest.mark.parametrize("sign", [b"\x1b[2J", b"\x1f", "\u202e".encode(), "é".encode()])
def test_a_strange_name_in_a_pickle_is_shown_without_what_a_terminal_follows(tmp_path, sign):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02c" + sign + b"\nname\n.")
    with pytest.raises(ForeignError) as caught:
        outline(tmp_path / "a.pt")
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()
