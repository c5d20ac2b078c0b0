"""Every format of annotations, whole and broken: the same pictures give the same samples, others' readers agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compress_plugins.detection.letterbox import fit
from formats import CLASSES, COLOURS, WRITERS, Scene, coco, scenes, write_coco, write_lists, write_voc, write_xml
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from compress import CompressError, Data
from compress.plugins import installed
from compress.testing import check_dataset

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SPLITS = {"train": scenes(0, 4, "train"), "val": scenes(0, 3, "val")}


def made(options: dict[str, Any], **more: Any) -> Any:
    return installed().make("datasets", {**options, "image_size": 96, **more})


def samples(data: Data) -> dict[str, tuple[torch.Tensor, dict[str, Any]]]:
    found = {}
    for split in (data.train, data.val):
        for i in range(len(split)):
            image, target = split.sample(i, None)
            found[target["id"]] = image, target
    return found


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_gives_the_same_samples_and_conforms(name: str, tmp_path: Path) -> None:
    options = WRITERS[name](tmp_path / "set", SPLITS)
    data = check_dataset(made(options))
    assert data.classes == CLASSES and data.problems == () and (len(data.train), len(data.val)) == (4, 3)
    found = samples(data)
    for scene in (*SPLITS["train"], *SPLITS["val"]):
        image, target = found[f"{scene.name}.png"]
        truth = fit(*scene.size, (96, 96)).place(np.array(scene.boxes) / [*scene.size, *scene.size])
        np.testing.assert_allclose(target["boxes"].numpy(), truth, atol=1e-3)
        assert target["labels"].tolist() == list(scene.labels)
        for box, label in zip(target["boxes"].numpy(), scene.labels, strict=True):  # and that is where the object is
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            np.testing.assert_allclose(image[:, y, x].numpy(), COLOURS[label], atol=12)
    assert made(options, cache=False).open().fingerprint == data.fingerprint


def test_coco_boxes_are_those_that_pycocotools_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = made(write_coco(tmp_path, SPLITS)).open()
    theirs = COCO(tmp_path / "annotations/instances_train2017.json")
    capsys.readouterr()
    categories = {id_: theirs.cats[id_]["name"] for id_ in theirs.getCatIds()}
    assert tuple(categories.values()) == data.classes
    mine = samples(data)
    for id_, image in theirs.imgs.items():
        target, rows = mine[image["file_name"]][1], theirs.loadAnns(theirs.getAnnIds(id_))
        place = fit(image["width"], image["height"], (96, 96))
        scale = np.array([place.width / image["width"], place.height / image["height"]] * 2)
        boxes = (target["boxes"].numpy() - [place.left, place.top] * 2) / scale
        boxes[:, 2:] -= boxes[:, :2]
        np.testing.assert_allclose(boxes, [row["bbox"] for row in rows], atol=1e-3)
        named = [categories[row["category_id"]] for row in rows]
        assert [data.classes[i] for i in target["labels"].tolist()] == named


def test_voc_boxes_are_those_that_torchvision_reads(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit/VOC2012"
    data = made(write_voc(root, SPLITS)).open()
    for file in (root / "JPEGImages").glob("*.png"):  # torchvision takes JPEGs only
        Image.open(file).save(file.with_suffix(".jpg"))
    for xml in (root / "Annotations").glob("*.xml"):
        xml.write_text(xml.read_text().replace(".png", ".jpg"))
    mine = samples(data)
    for image, content in VOCDetection(tmp_path, year="2012", image_set="train"):
        annotation = content["annotation"]
        target = mine[annotation["filename"].replace(".jpg", ".png")][1]
        place = fit(*image.size, (96, 96))
        scale = np.array([place.width / image.width, place.height / image.height] * 2)
        sides = ("xmin", "ymin", "xmax", "ymax")
        written = [[int(each["bndbox"][side]) for side in sides] for each in annotation["object"]]
        boxes = (target["boxes"].numpy() - [place.left, place.top] * 2) / scale
        np.testing.assert_allclose(boxes, np.array(written) - [1, 1, 0, 0], atol=1e-3)
        assert [data.classes[i] for i in target["labels"].tolist()] == [each["name"] for each in annotation["object"]]


def test_what_is_wrong_in_voc_is_counted_named_and_survived(tmp_path: Path) -> None:
    pictures = [Scene(f"a{i}", (90, 60), [(10, 10, 40, 40)], [0]) for i in range(9)]
    options = write_voc(tmp_path, {"train": pictures, "val": SPLITS["val"]})
    images, xml = tmp_path / "JPEGImages", tmp_path / "Annotations"
    (images / "a0.png").unlink()
    (images / "a1.png").write_bytes(b"no picture")
    (xml / "a2.xml").unlink()
    (xml / "a3.xml").write_text("<annotation><object>")
    whole = (xml / "a4.xml").read_text()
    (xml / "a4.xml").write_text(whole.replace("<xmax>40</xmax>", "<xmax>wide</xmax>"))
    (xml / "a5.xml").write_text(whole.replace("</name>", "</name><difficult>1</difficult>"))
    (xml / "a6.xml").write_text(whole.replace("<xmax>40</xmax>", "<xmax>11</xmax>").replace("xmin>11", "xmin>31"))
    write_xml(xml / "a7.xml", pictures[7], size=(0, 0))  # as some tools write it: then the image's own size counts
    write_xml(xml / "a8.xml", pictures[8], size=(60, 60))
    data = made(options).open()
    assert set(data.problems) == {
        "1 images are missing and are left out: a0",
        "1 images have no annotation and are left out: a2.png",
        "1 annotations cannot be read, and their images are left out: a3.xml",
        "1 objects have no name or no box and are left out: a4.xml",
        "1 objects are marked as difficult and are left out: a5.png",
        "1 boxes have no area inside the image and are left out: a6.png",
        "1 images cannot be read and are left out: a1.png",
        "1 images have another shape than their annotation says; their boxes may be off: a8.png",
        "2 classes have no box to train on: nut, screw",
    }
    boxes = {name: len(target["boxes"]) for name, (_, target) in samples(data).items() if name.startswith("a")}
    assert boxes == {"a4.png": 0, "a5.png": 0, "a6.png": 0, "a7.png": 1, "a8.png": 1}
    truth = fit(90, 60, (96, 96)).place(np.array([[10 / 90, 10 / 60, 40 / 90, 40 / 60]]))
    np.testing.assert_allclose(samples(data)["a7.png"][1]["boxes"].numpy(), truth, atol=1e-3)
    assert len(samples(made(options, difficult=True).open())["a5.png"][1]["boxes"]) == 1
    fewer = made(options, classes=["screw", "bolt"]).open()
    assert fewer.classes == ("screw", "bolt") and samples(fewer)["a7.png"][1]["labels"].tolist() == [1]
    assert any("objects are of none of the classes" in line for line in fewer.problems)


def test_what_is_wrong_in_coco_is_counted_named_and_survived(tmp_path: Path) -> None:
    pictures = [Scene(f"a{i}", (90, 60), [(10, 10, 40, 40)], [i % 3]) for i in range(9)]
    options = write_coco(tmp_path, {"train": pictures, "val": SPLITS["val"]})
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    rows, images = content["annotations"], content["images"]
    (tmp_path / "train2017/a0.png").unlink()
    (tmp_path / "train2017/a1.png").write_bytes(b"no picture")
    rows[2]["bbox"] = [1, 2, 3]
    rows[3]["iscrowd"] = 1
    rows[4]["category_id"] = 2
    rows[5]["image_id"] = 4711
    rows[6]["bbox"] = [-10, 10, 30, 30]
    rows[7]["bbox"] = [10, 10, 0, 30]
    del images[8]["width"]
    images += [{"id": 70, "file_name": "again.png"}, {"file_name": "nobody.png"}]
    file.write_text(json.dumps(content))
    data = made(options).open()
    assert set(data.problems) == {
        "1 images are missing and are left out: a0.png",
        "1 images cannot be read and are left out: a1.png",
        "1 annotations have no box and are left out: a2.png",
        "1 crowd regions are left out: a3.png",
        "1 annotations are of no category that is listed and are left out: a4.png",
        "1 annotations belong to no image and are left out: instances_train2017.json",
        "1 boxes reach outside their image and are clipped: a6.png",
        "1 boxes have no area inside the image and are left out: a7.png",
        "1 images have no width and height and are left out: a8.png",
        "1 image entries have the id of another and are left out: again.png",
        "1 image entries have no id or no file_name and are left out: {'file_name': 'nobody.png'}",
        "2 classes have no box to train on: nut, screw",
    }
    assert len(data.train) == 6
    assert [len(samples(data)[f"a{i}.png"][1]["boxes"]) for i in range(2, 8)] == [0, 0, 0, 0, 1, 0]


def test_coco_is_found_where_its_imitators_have_it(tmp_path: Path) -> None:
    for split, word in (("train", "train"), ("val", "valid")):
        for scene in SPLITS[split]:
            scene.draw(tmp_path / word / f"{scene.name}.png")
        (tmp_path / word / "_annotations.coco.json").write_text(json.dumps(coco(SPLITS[split])))
    data = made({"uses": "coco", "root": str(tmp_path)}).open()
    assert (len(data.train), len(data.val), data.problems) == (4, 3, ())


def test_voc_is_found_in_folders_of_images_and_xml(tmp_path: Path) -> None:
    for split, word in (("train", "train"), ("val", "valid")):
        for scene in SPLITS[split]:
            scene.draw(tmp_path / word / f"{scene.name}.png")
            write_xml(tmp_path / word / f"{scene.name}.xml", scene)
    missing = made({"uses": "voc", "root": str(tmp_path)}).available()
    assert missing and missing.endswith("neither ImageSets/Main/val.txt nor a folder val; did you mean 'valid'?")
    data = made({"uses": "voc", "root": str(tmp_path)}, val="valid").open()
    assert (len(data.train), len(data.val), data.problems) == (4, 3, ())


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_picture_keeps_its_boxes_however_it_was_annotated(tmp_path: Path, orientation: int) -> None:
    upright = Scene("one", (90, 60), [(10, 20, 40, 50)], [0])
    options = write_voc(tmp_path, {"train": [upright], "val": SPLITS["val"]})
    (tmp_path / "JPEGImages/one.png").unlink()
    upright.draw(tmp_path / "whole.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.open(tmp_path / "whole.png").rotate({3: 180, 6: 90, 8: 270}[orientation], expand=True)
    turned.save(tmp_path / "JPEGImages/one.jpg", exif=exif, quality=95)  # what a viewer turns back

    def centre_is_red(data: Data) -> bool:
        image, target = data.train.sample(0, None)
        (box,) = target["boxes"].numpy()
        x, y = ((box[:2] + box[2:]) / 2).astype(int)
        return bool(image[0, y, x] > 200 and image[2, y, x] < 60)

    assert centre_is_red(made(options).open())
    if orientation != 3:  # annotated as it lies in the file: (y, 90 - x) or (60 - y, x)
        box = (20, 50, 50, 80) if orientation == 6 else (10, 10, 40, 40)
        write_xml(tmp_path / "Annotations/one.xml", Scene("one", (60, 90), [box], [0]))
        data = made(options).open()
        assert centre_is_red(data) and data.problems == ("2 classes have no box to train on: nut, screw",)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("coco", lambda r: shutil.rmtree(r / "annotations"), "train: no annotations there .*data.train=FILE"),
        ("coco", lambda r: (r / "annotations/instances_train2014.json").write_text("{}"), "train: could be .*2014"),
        ("coco", lambda r: (r / "annotations/instances_val2017.json").write_text("{"), "val2017.json: not JSON"),
        ("coco", lambda r: (r / "annotations/instances_val2017.json").write_text("[]"), "lists images, annot"),
        ("coco", lambda r: shutil.rmtree(r / "val2017"), "val: no image val0.png in .*data.images=FOLDER"),
        ("voc", lambda r: (r / "ImageSets/Main/val.txt").write_text("\n"), "val.txt: names no image"),
        ("voc", lambda r: shutil.rmtree(r / "Annotations"), "train: none of its 4 images has both"),
        ("darknet-lists", lambda r: (r / "data/obj.names").write_text("one\ntwo\n"), "classes is 3 but .* 2 names"),
        ("darknet-lists", lambda r: (r / "data/val.txt").unlink(), "valid = data/val.txt: no such file"),
        ("darknet-lists", lambda r: (r / "data/val.txt").write_text("gone.png\n"), "none of the 1 images can be read"),
        ("darknet-lists", lambda r: (r / "cfg/obj.data").write_text("train = a\nvali = b\n"), "no `valid = FILE`; did"),
        ("darknet-lists", lambda r: (r / "cfg/obj.data").unlink(), "obj.data: no such file or folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what(name: str, spoil: Any, said: str, tmp_path: Path) -> None:
    options = WRITERS[name](tmp_path, SPLITS)
    spoil(tmp_path)
    with pytest.raises(CompressError, match=said) as caught:
        made(options).open()
    assert "\n" not in str(caught.value)


def test_lists_need_no_data_file(tmp_path: Path) -> None:
    write_lists(tmp_path, SPLITS)
    folder = tmp_path / "data"
    (folder / "val.txt").rename(folder / "valid.txt")
    data = made({"uses": "darknet-lists", "root": str(folder)}).open()
    assert (len(data.train), len(data.val), data.classes) == (4, 3, CLASSES)
    (folder / "other.names").write_text("a\n")
    with pytest.raises(CompressError, match=r"names: found obj\.names, other\.names"):
        made({"uses": "darknet-lists", "root": str(folder)}).open()


@pytest.mark.data
@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason=f"the real images are not there: {SHARED / 'bccd'}")
def test_the_real_cells_are_read_whole() -> None:
    data = made({"uses": "yolo", "root": str(SHARED / "bccd")}).open()
    assert len(data.classes) == 3 and (len(data.train), len(data.val), data.problems) == (205, 87, ())
