"""A random pose in, the solids of one hand in it out: palm, fingers, forearm, and where nails and creases are.

In hand units, the length from wrist to the tip of the straight middle finger is 1; x towards the thumb, y towards the
fingers, z out of the palm. Proportions are those of an adult hand (about 190 mm long, 84 mm broad).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .solids import Capsules

#                     x      y      length  thickness
FINGERS = np.array([(0.150, 0.465, 0.43, 1.00),  # index: its knuckle, knuckle to tip, radius relative to the index's
                    (0.050, 0.490, 0.48, 1.03),
                    (-0.050, 0.470, 0.44, 0.98),
                    (-0.140, 0.420, 0.34, 0.85)])  # fmt: skip
PHALANGES = np.array([0.46, 0.29, 0.25])
RADII = np.array([0.056, 0.050, 0.045, 0.037])  # at the knuckle, the two joints and the tip
THUMB = np.array([0.25, 0.17, 0.15])
THUMB_RADII = np.array([0.080, 0.060, 0.054, 0.041])
BENDS = np.radians([78, 98, 62])  # of a finger's three joints when it is fully curled

MIDDLE = np.array([0, 0.42, 0])  # of a hand: what it is scaled and turned about
DOWN = np.array([1, -1, 1])  # the canvas' y points down

# how far each finger, the thumb first, is curled
POSES = {
    "open": (0.0, 0.0, 0.0, 0.0, 0.0),
    "relaxed": (0.3, 0.25, 0.33, 0.4, 0.45),
    "grip": (0.5, 0.55, 0.6, 0.62, 0.65),
    "fist": (0.75, 0.95, 1.0, 1.0, 0.95),
    "point": (0.6, 0.0, 0.95, 1.0, 0.95),
    "two": (0.8, 0.0, 0.0, 1.0, 0.95),
    "three": (0.9, 0.0, 0.0, 0.0, 0.9),
    "thumb up": (0.0, 0.9, 1.0, 1.0, 1.0),
    "phone": (0.0, 0.95, 1.0, 0.95, 0.0),
    "pinch": (0.45, 0.5, 0.25, 0.15, 0.1),
}


@dataclass(frozen=True)
class Marks:
    """n nails, creases, folds or lines of the palm: points (n, k, 3) on the skin, its outward normals (n, 3)."""

    kind: str
    points: np.ndarray
    normals: np.ndarray


@dataclass(frozen=True)
class Hand:
    """One hand in canvas axes. size: pixels of a hand unit. palm_seen: how much the palm faces the viewer, -1 to 1."""

    palm: Capsules
    fingers: tuple[Capsules, ...]
    forearm: Capsules
    sleeve: Capsules | None
    marks: tuple[Marks, ...]
    palm_seen: float
    size: float = 1.0

    def moved(self, x: float, y: float, scale: float) -> Hand:
        """Scaled about the canvas origin, then moved by (x, y) pixels."""
        to = np.array([x, y, 0.0])
        return Hand(
            self.palm.moved(to, scale),
            tuple(finger.moved(to, scale) for finger in self.fingers),
            self.forearm.moved(to, scale),
            self.sleeve.moved(to, scale) if self.sleeve else None,
            tuple(Marks(marks.kind, marks.points * scale + to, marks.normals) for marks in self.marks),
            self.palm_seen,
            self.size * scale,
        )


@dataclass(frozen=True)
class _Placement:
    """From hand units to canvas axes (x right, y down, z to the viewer): mirrored or not, then rotated."""

    rotation: np.ndarray
    mirror: np.ndarray
    thickness: float

    def points(self, p: np.ndarray) -> np.ndarray:
        return ((p - MIDDLE) * self.mirror) @ self.rotation.T * DOWN

    def direction(self, v: np.ndarray) -> np.ndarray:
        return (v * self.mirror) @ self.rotation.T * DOWN

    def solid(self, starts: np.ndarray, ends: np.ndarray, ra: np.ndarray, rb: np.ndarray, flat: float) -> Capsules:
        return Capsules(self.points(starts), self.points(ends), ra * self.thickness, rb * self.thickness, flat)

    def chain(self, joints: np.ndarray, radii: np.ndarray, flat: float = 1.0) -> Capsules:
        return self.solid(joints[:-1], joints[1:], radii[:-1], radii[1:], flat)


def pose_hand(rng: np.random.Generator, turn: float) -> Hand:
    """A random hand of size 1 with its middle at the origin, its fingers pointing along `turn`.

    turn: radians, 0 is up, clockwise positive.
    """
    curls = _curls(rng)
    mirror = np.array([-1.0 if rng.random() < 0.5 else 1.0, 1, 1])
    to = _Placement(_orientation(rng, turn), mirror, rng.uniform(0.88, 1.15))
    chains = [_finger(rng, curl, *finger[:3]) for curl, finger in zip(curls[1:], FINGERS, strict=True)]
    chains.append(_thumb(rng, curls[0]))
    radii = np.concatenate([RADII * FINGERS[:, 3:], THUMB_RADII[None]])  # (5, 4)
    joints, normals, sides = (np.stack(values) for values in zip(*chains, strict=True))  # (5, 4, 3), 2 x (5, 3, 3)
    fingers = tuple(to.chain(chain, r) for chain, r in zip(joints, radii, strict=True))
    marks = (*_finger_marks(joints, normals, sides, radii * to.thickness, to), _palm_marks(rng, to))
    forearm, sleeve = _forearm(rng, to)
    return Hand(_palm(joints[-1], to), fingers, forearm, sleeve, marks, float(to.rotation[2, 2]))


def _curls(rng: np.random.Generator) -> np.ndarray:
    pose = np.array(POSES[str(rng.choice(list(POSES)))])
    if rng.random() < 0.25:
        pose = rng.uniform(0, 1) * 0.5 + rng.uniform(0, 0.5, 5)
    return np.clip(pose + rng.normal(0, 0.06, 5), 0, 1.02)


def _orientation(rng: np.random.Generator, turn: float) -> np.ndarray:
    """A rotation matrix: palm or back towards the viewer, now and then the edge, tilted up to 45 degrees, turned."""
    roll = rng.choice([0.0, np.pi]) + rng.normal(0, 0.3)
    tilt = np.clip(rng.normal(0, 0.25), -0.6, 0.6)
    c, s = np.cos(roll), np.sin(roll)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    c, s = np.cos(tilt), np.sin(tilt)
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(-turn), np.sin(-turn)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def _chain(start: np.ndarray, directions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return start + np.concatenate([np.zeros((1, 3)), np.cumsum(directions * lengths[:, None], 0)])


def _finger(
    rng: np.random.Generator, curl: float, x: float, y: float, length: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joints (4, 3) of a finger, and for each phalanx the outward normal of its back (3, 3) and its side (3, 3)."""
    spread = np.radians(x * 60 * (1 - curl) * rng.uniform(0.2, 1.9)) + rng.normal(0, 0.03)
    along, out = np.array([np.sin(spread), np.cos(spread), 0]), np.array([0, 0, 1.0])
    bend = np.cumsum(BENDS * curl * rng.uniform(0.9, 1.1, 3))[:, None]
    directions = np.cos(bend) * along + np.sin(bend) * out
    normals = np.sin(bend) * along - np.cos(bend) * out
    lengths = PHALANGES * length * rng.uniform(0.93, 1.07)
    side = np.array([np.cos(spread), -np.sin(spread), 0])
    return _chain(np.array([x, y, 0]), directions, lengths), normals, np.tile(side, (3, 1))


def _thumb(rng: np.random.Generator, curl: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_finger`, for the thumb: it swings from beside the palm across it as it curls."""
    away = np.radians(rng.uniform(35, 60)) * (1 - 0.55 * curl)
    lift = np.radians(rng.uniform(5, 25) + 35 * curl)
    swing = np.radians(np.array([0, 18, 45]) * (0.25 + curl)) * rng.uniform(0.7, 1.1)
    angle = (away - np.cumsum(swing))[:, None]
    rise = lift * np.array([1, 0.9, 0.7])[:, None]
    directions = np.concatenate([np.sin(angle) * np.cos(rise), np.cos(angle) * np.cos(rise), np.sin(rise)], 1)
    side = np.concatenate([-np.cos(angle) * 0.5, np.sin(angle) * 0.5, np.full((3, 1), 0.85)], 1)
    side -= (side * directions).sum(1, keepdims=True) * directions
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    return _chain(np.array([0.095, 0.09, 0.02]), directions, THUMB), np.cross(directions, side), side


def _palm(thumb: np.ndarray, to: _Placement) -> Capsules:
    """Metacarpals, the web between them, the balls of the thumb and of the little finger."""
    knuckles = np.concatenate([FINGERS[:, :2], np.zeros((4, 1))], 1)
    wrist = np.stack([FINGERS[:, 0] * 0.62, np.full(4, 0.05), np.zeros(4)], 1)
    starts = [*wrist, [0.09, 0.09, 0.03], [-0.095, 0.09, 0.02], [0.10, 0.2, 0.0], knuckles[0]]
    ends = [*knuckles, thumb[1], [-0.135, 0.33, 0.01], 0.5 * (thumb[1] + knuckles[0]) - [0.035, 0.02, 0], knuckles[3]]
    ra = np.array([0.090, 0.095, 0.095, 0.086, 0.092, 0.082, 0.065, 0.060])
    rb = np.array([0.072, 0.078, 0.075, 0.064, 0.070, 0.072, 0.050, 0.060])
    return to.solid(np.array(starts), np.array(ends), ra, rb, 0.8)


def _forearm(rng: np.random.Generator, to: _Placement) -> tuple[Capsules, Capsules | None]:
    """Forearm and upper arm, bent at wrist and elbow, and in most pictures a sleeve from somewhere on."""
    bend, dip = rng.normal(0, 0.25), rng.normal(0, 0.2)
    bent = bend + rng.normal(0, 0.5)
    forearm = np.array([np.sin(bend) * np.cos(dip), -np.cos(bend) * np.cos(dip), np.sin(dip)])
    upper = np.array([np.sin(bent), -np.cos(bent), 0])
    wrist = np.array([0.0, 0.05, 0.0])
    elbow = wrist + 1.5 * forearm
    cuff = rng.uniform(0.2, 1.0) if rng.random() < 0.25 else 0.14
    if rng.random() > 0.85:
        joints = np.stack([wrist, wrist + 0.1 * forearm, elbow, elbow + 6 * upper])
        return to.chain(joints, np.array([0.125, 0.118, 0.19, 0.3]), 0.7), None
    joints = np.stack([wrist, wrist + 0.1 * forearm, wrist + (cuff + 0.1) * forearm])
    skin = to.chain(joints, np.array([0.125, 0.118, 0.12 + 0.04 * cuff]), 0.7)
    joints = np.stack([wrist + cuff * forearm, elbow, elbow + 6 * upper])
    return skin, to.chain(joints, np.array([0.155 + 0.05 * cuff, 0.25, 0.4]), 0.75)


def _finger_marks(
    joints: np.ndarray, normals: np.ndarray, sides: np.ndarray, radii: np.ndarray, to: _Placement
) -> list[Marks]:
    """Of f fingers, joints (f, 4, 3): nails on the backs of their ends; creases and folds at both joints of each."""
    tip = joints[:, 3] - joints[:, 2]
    tip /= np.linalg.norm(tip, axis=1, keepdims=True)
    around = np.linspace(0, 2 * np.pi, 14)[:, None]
    nail = joints[:, 3] - tip * 0.012 + 0.94 * radii[:, 3:] * normals[:, 2]  # (f, 3)
    outline = nail[:, None] + np.cos(around) * tip[:, None] * 0.036
    outline = outline + np.sin(around) * (sides[:, 2] * radii[:, 3:] * 0.68)[:, None]  # (f, 14, 3)
    across = np.linspace(-0.85, 0.85, 5)[:, None]
    lift = np.sqrt(1 - (across * 0.9) ** 2)
    back = (normals[:, :2] + normals[:, 1:]).reshape(-1, 1, 3)  # (f, 2, 3) -> (2f, 1, 3)
    back = back / np.linalg.norm(back, axis=2, keepdims=True)
    middle, side = joints[:, 1:3].reshape(-1, 1, 3), sides[:, 1:].reshape(-1, 1, 3)
    radius = radii[:, 1:3].reshape(-1, 1, 1)
    marks = [Marks("nail", to.points(outline), to.direction(normals[:, 2]))]
    for kind, way in (("crease", -back), ("knuckle", back)):
        line = middle + (across * side + way * lift) * radius  # (2f, 5, 3)
        marks.append(Marks(kind, to.points(line), to.direction(way[:, 0])))
    return marks


def _palm_marks(rng: np.random.Generator, to: _Placement) -> Marks:
    """The three large lines of the palm, a little different in every hand."""
    lines = np.array([[(-0.19, 0.34), (-0.09, 0.35), (0.01, 0.38), (0.08, 0.45)],
                      [(0.20, 0.36), (0.10, 0.34), (0.0, 0.28), (-0.10, 0.20)],
                      [(0.20, 0.35), (0.10, 0.31), (0.045, 0.2), (0.04, 0.07)]])  # fmt: skip
    lines = lines + rng.normal(0, 0.008, lines.shape)
    points = np.concatenate([lines, np.full((3, 4, 1), 0.07)], 2)  # on the palm's surface
    return Marks("line", to.points(points), to.direction(np.array([[0.0, 0.0, 1.0]] * 3)))
