import codecs

import cv2
import numpy as np
import pytest

from detection.formats.voc import read_voc, write_voc
from tests.support.commands import convert as main

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object>"
)


def xml(filename="a.jpg", name="cat", size="<size><width>100</width><height>80</height></size>", more=""):
    return f"<annotation><filename>{filename}</filename>{size}{OBJECT.format(name=name)}{more}</annotation>"


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))


def picture(path, height=80, width=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.zeros((height, width, 3), np.uint8))[1].tobytes())


def files(content):
    return [image["file_name"] for image in content["images"]]


def test_images_lie_as_their_xml_files_do(tmp_path):
    for folder in ("cam1", "cam2/deep"):
        write(tmp_path / "Annotations" / folder / "0001.xml", xml("0001.png"))
    for source in (tmp_path, tmp_path / "Annotations"):
        content, account = read_voc(source)
        assert files(content) == ["cam1/0001.png", "cam2/deep/0001.png"]
        assert not account.changed


def test_a_stale_filename_gives_its_suffix_alone(tmp_path):
    for name in ("0000", "0001.v2", "0002"):
        write(tmp_path / f"{name}.xml", xml(r"C:\Users\me\image.png"))
    content, account = read_voc(tmp_path)
    assert files(content) == ["0000.png", "0001.v2.png", "0002.png"]
    assert account.changed == {"images named as their XML file, not as <filename> says": 3}


def test_images_that_are_there_settle_their_names(tmp_path):
    for name, filename in (("a", "a.jpg"), ("b", "other.jpg"), ("c", "deep/c2.jpg"), ("d", "")):
        write(tmp_path / f"Annotations/{name}.xml", xml(filename))
    for name in ("a.png", "b.jpg", "other.jpg", "deep/c2.jpg", "d.jpg"):
        picture(tmp_path / "JPEGImages" / name)
    content, account = read_voc(tmp_path)
    assert files(content) == ["a.png", "b.jpg", "deep/c2.jpg", "d.jpg"]
    (tmp_path / "JPEGImages").rename(tmp_path / "photos")
    assert files(read_voc(tmp_path, images=tmp_path / "photos")[0]) == ["a.png", "b.jpg", "deep/c2.jpg", "d.jpg"]
    (tmp_path / "photos/d.jpg").unlink()
    account = read_voc(tmp_path, images=tmp_path / "photos")[1]
    assert any("images that are not in" in kind for kind in account.changed)


def test_several_data_sets_below_one_folder(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        write(tmp_path / year / "Annotations/1.xml", xml("1.jpg"))
    assert files(read_voc(tmp_path)[0]) == ["VOC2007/JPEGImages/1.jpg", "VOC2012/JPEGImages/1.jpg"]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size/>"])
def test_a_missing_size_is_that_of_the_image(tmp_path, size):
    write(tmp_path / "Annotations/a.xml", xml(size=size))
    with pytest.raises(ValueError, match=r"a\.xml: .*size"):
        read_voc(tmp_path)
    picture(tmp_path / "JPEGImages/a.jpg", 80, 100)
    content, account = read_voc(tmp_path)
    assert content["images"][0] == {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
    assert account.changed == {"images without <size> took that of their file": 1}


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("utf8", "utf-8"),
        ("UTF-8", "utf-8"),
        (None, "utf-8"),
        ("utf-8", "utf-8-sig"),
        ("gb2312", "utf-8-sig"),  # the byte order mark counts
        ("gb2312", "gbk"),
        ("GBK", "gbk"),
        ("gb18030", "gb18030"),
        ("big5", "big5"),
        ("shift_jis", "shift_jis"),
        ("EUC-KR", "euc_kr"),
        ("utf-16", "utf-16"),
        ("utf-8", "utf-16"),
        (None, "utf-16"),
        ("iso-8859-1", "latin-1"),
        ("windows-1252", "cp1252"),
    ],
)
def test_encodings_of_annotation_tools_are_read(tmp_path, declared, encoding):
    name = {"euc_kr": "고양이", "latin-1": "café", "cp1252": "café"}.get(encoding, "貓" if encoding == "big5" else "中")
    head = f"<?xml version='1.0' encoding='{declared}'?>" if declared else ""
    write(tmp_path / "a.xml", head + xml(name=name), encoding)
    assert read_voc(tmp_path)[0]["categories"] == [{"id": 1, "name": name}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (("<?xml version='1.0' encoding='utf-8'?>" + xml(name="café")).encode("latin-1"), "is not valid utf-8"),
        (xml(name="中文").encode("gb18030"), "is not valid utf-8"),
        (b"<?xml version='1.0' encoding='zlib'?><annotation/>", "the unsupported encoding zlib"),
        (b"<?xml version='1.0' encoding='unicode_escape'?><annotation/>", "the unsupported encoding unicode_escape"),
        (b"<?xml version='1.0' encoding='nonsense'?><annotation/>", "the unsupported encoding nonsense"),
        (xml().encode("utf-16")[:-1], "is not valid utf-16"),
        (xml().encode("utf-16-le"), "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'.encode("utf-16-le"), "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'.encode("utf-16"), "declares a document type"),
        (codecs.BOM_UTF8 + b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "declares a document type"),
        (b"<annotation>&b;</annotation>", "is not XML"),
        (b"", "is not XML"),
        (xml(size="<size><width>100.5</width><height>80</height></size>").encode(), "<size> is 100.5 x 80"),
        (xml(size="<size><width>1e300</width><height>80</height></size>").encode(), "<size> is 1e.300 x 80"),
        (xml().replace("<xmax>40", "<xmax>1e999").encode(), "it must be a number"),
        (xml().replace("<xmax>40", "<xmax>" + "9" * 5000).encode(), "it must be a number"),
        (xml().replace("bndbox", "robndbox").encode(), "a rotated box"),
        (xml(name=" ").encode(), "has no <name>"),
        (("<a>" * 100_000).encode(), "is not XML"),
        (("<a>" * 100_000 + "</a>" * 100_000).encode(), "begins with <a>"),
    ],
)
def test_broken_files_are_rejected_in_one_line_with_their_path(tmp_path, data, message):
    write(tmp_path / "a.xml", data)
    with pytest.raises(ValueError, match=rf"{tmp_path}/a\.xml: .*{message}") as raised:
        read_voc(tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_billion_laughs_are_rejected_unread(tmp_path):
    entities = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
    write(tmp_path / "a.xml", f'<!DOCTYPE l [<!ENTITY l0 "lol">{entities}]>{xml(name="&l9;")}')
    with pytest.raises(ValueError, match="declares a document type"):
        read_voc(tmp_path)


def voc(tmp_path):
    for k in range(4):
        write(tmp_path / f"Annotations/{k}.xml", xml(f"{k}.jpg"))
    lists = tmp_path / "ImageSets/Main"
    write(lists / "train.txt", "0\n2\n\n")
    write(lists / "val.txt", "1.jpg\r\n3.jpg\r\n")
    write(lists / "cat_train.txt", "0  1\n1 -1\n2  0\n")
    return tmp_path


def test_a_split_is_the_list_of_that_name(tmp_path):
    voc(tmp_path)
    for source in (tmp_path, tmp_path / "Annotations"):
        assert files(read_voc(source, split="train")[0]) == ["0.jpg", "2.jpg"]
        assert files(read_voc(source, split="val")[0]) == ["1.jpg", "3.jpg"]
        assert files(read_voc(source, split="cat_train")[0]) == ["0.jpg", "2.jpg"]
    content, account = read_voc(tmp_path)
    assert len(content["images"]) == 4
    assert "give --split: cat_train, train, val" in str(account)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", "has cat_train, long, train, twice, val"),
        ("../Main/train", "--split ../Main/train"),
        ("long", r"long\.txt: lists 1 image without an XML file, the first is missing at .*7\.xml"),
        ("twice", r"twice\.txt: lists 0 twice"),
    ],
)
def test_a_split_that_is_not_there_is_rejected(tmp_path, split, message):
    voc(tmp_path)
    write(tmp_path / "ImageSets/Main/long.txt", "0\n7")
    write(tmp_path / "ImageSets/Main/twice.txt", "0\n0")
    with pytest.raises(ValueError, match=message):
        read_voc(tmp_path, split=split)


def test_what_voc_says_beside_boxes_is_counted(tmp_path, capsys):
    more = "<truncated>1</truncated><difficult>1</difficult><pose>Left</pose><part/><part/></object>"
    write(tmp_path / "a.xml", xml(more="<segmented>1</segmented>").replace("</object>", more))
    main(["voc2coco", str(tmp_path), str(tmp_path / "out.json")])
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "converted: 1 image (1 with objects), 1 object",
        "  as 1 box",
        "  classes: cat 1",
        "changed:",
        "  1 difficult object (now crowds: neither learned nor scored)",
        "left out:",
        "  1 file of masks (segmented)",
        "  1 value of truncated",
        "  1 value of pose",
        "  2 parts of objects",
    ]


def test_no_object_is_an_error_even_with_names(tmp_path, capsys):
    write(tmp_path / "a.xml", xml().replace("<object>", "<!--").replace("</object>", "-->"))
    with pytest.raises(SystemExit) as stop:
        main(["voc2coco", str(tmp_path), str(tmp_path / "out.json"), "--names", "cat"])
    assert stop.value.code == 2
    assert "no file contains an object" in capsys.readouterr().err


def test_names_of_windows_are_written_below_folders(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": r"cam\a.jpg", "height": 100, "width": 120}],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    write_voc(coco, tmp_path)
    assert files(read_voc(tmp_path)[0]) == ["cam/a.jpg"]
    coco["categories"][0]["name"] = "a\x1b[2J"
    with pytest.raises(ValueError, match=r"characters that XML does not allow") as raised:
        write_voc(coco, tmp_path)
    assert "\x1b" not in str(raised.value)
