"""Class tables of the public data sets: names, colours and numbers, as their publishers define them."""

from __future__ import annotations

from dataclasses import dataclass

from tilesegment.model.card import ModelClass, default_colours


@dataclass(frozen=True)
class Label:
    """A row of Cityscapes' label table. train_id: 0..18 for the 19 evaluated classes, else None."""

    name: str
    number: int
    train_id: int | None
    colour: tuple[int, int, int]


# cityscapesscripts/helpers/labels.py; the licence plate (-1) shares the car's colour and has no pixel of
# its own in labelIds files.
CITYSCAPES = tuple(
    Label(name, number, train_id, colour)
    for number, (name, train_id, colour) in enumerate(
        [
            ("unlabeled", None, (0, 0, 0)),
            ("ego vehicle", None, (0, 0, 0)),
            ("rectification border", None, (0, 0, 0)),
            ("out of roi", None, (0, 0, 0)),
            ("static", None, (0, 0, 0)),
            ("dynamic", None, (111, 74, 0)),
            ("ground", None, (81, 0, 81)),
            ("road", 0, (128, 64, 128)),
            ("sidewalk", 1, (244, 35, 232)),
            ("parking", None, (250, 170, 160)),
            ("rail track", None, (230, 150, 140)),
            ("building", 2, (70, 70, 70)),
            ("wall", 3, (102, 102, 156)),
            ("fence", 4, (190, 153, 153)),
            ("guard rail", None, (180, 165, 180)),
            ("bridge", None, (150, 100, 100)),
            ("tunnel", None, (150, 120, 90)),
            ("pole", 5, (153, 153, 153)),
            ("polegroup", None, (153, 153, 153)),
            ("traffic light", 6, (250, 170, 30)),
            ("traffic sign", 7, (220, 220, 0)),
            ("vegetation", 8, (107, 142, 35)),
            ("terrain", 9, (152, 251, 152)),
            ("sky", 10, (70, 130, 180)),
            ("person", 11, (220, 20, 60)),
            ("rider", 12, (255, 0, 0)),
            ("car", 13, (0, 0, 142)),
            ("truck", 14, (0, 0, 70)),
            ("bus", 15, (0, 60, 100)),
            ("caravan", None, (0, 0, 90)),
            ("trailer", None, (0, 0, 110)),
            ("train", 16, (0, 80, 100)),
            ("motorcycle", 17, (0, 0, 230)),
            ("bicycle", 18, (119, 11, 32)),
        ]
    )
)
# "30 classes" are the ids from static to bicycle.
CITYSCAPES_30 = tuple(label for label in CITYSCAPES if label.number >= 4)
CITYSCAPES_19 = tuple(label for label in CITYSCAPES if label.train_id is not None)

_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
VOC = tuple(map(ModelClass, _VOC_NAMES, default_colours(len(_VOC_NAMES))))

# What VOC calls otherwise than COCO.
USUAL_NAMES = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
    "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip

# Ids of COCO's 80 things; ten numbers between 1 and 90 are not used.
COCO: dict[int, str] = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
    9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
    24: "zebra", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase",
    34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
    40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle",
    46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana",
    53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza",
    60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table",
    70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone",
    78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock",
    86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip

# The 11 classes of the common 480x360 files, in the order of their indices; 11 is void.
CAMVID_11 = tuple(
    ModelClass(name, colour)
    for name, colour in [
        ("Sky", (128, 128, 128)),
        ("Building", (128, 0, 0)),
        ("Pole", (192, 192, 128)),
        ("Road", (128, 64, 128)),
        ("Sidewalk", (0, 0, 192)),
        ("Tree", (128, 128, 0)),
        ("SignSymbol", (192, 128, 128)),
        ("Fence", (64, 64, 128)),
        ("Car", (64, 0, 128)),
        ("Pedestrian", (64, 64, 0)),
        ("Bicyclist", (0, 128, 192)),
    ]
)
# The RGB version's 32 classes, each with the index of its class among the 11 as the documentation of both
# versions maps them; None is void.
CAMVID_32: tuple[tuple[str, tuple[int, int, int], int | None], ...] = (
    ("Animal", (64, 128, 64), 9),
    ("Archway", (192, 0, 128), 1),
    ("Bicyclist", (0, 128, 192), 10),
    ("Bridge", (0, 128, 64), 1),
    ("Building", (128, 0, 0), 1),
    ("Car", (64, 0, 128), 8),
    ("CartLuggagePram", (64, 0, 192), 9),
    ("Child", (192, 128, 64), 9),
    ("Column_Pole", (192, 192, 128), 2),
    ("Fence", (64, 64, 128), 7),
    ("LaneMkgsDriv", (128, 0, 192), 3),
    ("LaneMkgsNonDriv", (192, 0, 64), 3),
    ("Misc_Text", (128, 128, 64), 6),
    ("MotorcycleScooter", (192, 0, 192), 10),
    ("OtherMoving", (128, 64, 64), 8),
    ("ParkingBlock", (64, 192, 128), 4),
    ("Pedestrian", (64, 64, 0), 9),
    ("Road", (128, 64, 128), 3),
    ("RoadShoulder", (128, 128, 192), 4),
    ("Sidewalk", (0, 0, 192), 4),
    ("SignSymbol", (192, 128, 128), 6),
    ("Sky", (128, 128, 128), 0),
    ("SUVPickupTruck", (64, 128, 192), 8),
    ("TrafficCone", (0, 0, 64), 2),
    ("TrafficLight", (0, 64, 64), 6),
    ("Train", (192, 64, 128), 8),
    ("Tree", (128, 128, 0), 5),
    ("Truck_Bus", (192, 128, 192), 8),
    ("Tunnel", (64, 0, 64), 1),
    ("VegetationMisc", (192, 192, 0), 5),
    ("Void", (0, 0, 0), None),
    ("Wall", (64, 192, 0), 1),
)
