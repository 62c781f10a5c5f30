"""Detection and recognition of faces: networks as published, exact alignment, rejected checkpoints."""

import asyncio
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch.nn import functional

from miniatures.random import written
from miniatures.random.instantid import FILE, write
from services.errors import ConfigError, InvalidParameter, ModelFailed
from services.frames import Face, Features, Frames
from services.instantid.arcface import UNITS, ArcFace, from_weights
from services.instantid.geometry import TEMPLATE, aligned, similarity, yaw
from services.instantid.mtcnn import Mtcnn
from services.instantid.service import InstantId
from services.instantid.settings import InsightFaceSettings, InstantIdSettings, MtcnnSettings
from services.weights.weights import Weights

ROOT = Path(__file__).parents[2]
ASTRONAUT = np.array(Image.open(Path(__file__).parents[1] / "data/astronaut.png").convert("RGB"))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write("tiny", folder)
    return folder


@pytest.fixture(scope="module")
def mtcnn() -> Mtcnn:
    return Mtcnn(MtcnnSettings(), CPU)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / FILE, weights_only=True)


def loaded(home: Path, **settings) -> InstantId:
    fields = {"recogniser": written("instantid", "tiny", home), "device": "cpu", **settings}
    return InstantId(InstantIdSettings(**fields), home, lambda: "instantid#test cpu")


def face_in(service: InstantId, pixels=ASTRONAUT) -> Face:
    async def found() -> Face:
        (face,) = [item async for item in service.find_face(Frames(pixels[None].copy())) if isinstance(item, Face)]
        return face

    return asyncio.run(found())


# --- the detector -------------------------------------------------------------------------------------------------


def test_it_finds_what_facenet_pytorch_finds(mtcnn):
    """The expected numbers are those of `MTCNN(keep_all=True).detect(picture, landmarks=True)`, version 2.6.0."""
    (face,) = mtcnn.detect(ASTRONAUT, lambda: None)
    assert np.abs(face.box - [181.1, 62.2, 267.7, 172.1]).max() < 0.06
    points = [[205.011, 101.727], [246.763, 103.714], [224.671, 128.965], [201.716, 139.246], [245.265, 141.857]]
    assert np.abs(face.keypoints - points).max() < 0.01


def test_a_longer_picture_is_searched_as_if_it_were_smaller(mtcnn):
    large = np.array(Image.fromarray(ASTRONAUT).resize((2048, 2048), Image.Resampling.BICUBIC))
    sizes = []
    hook = mtcnn._nets["proposal"].register_forward_pre_hook(lambda _, given: sizes.append(given[0].shape[-1]))
    (face,) = mtcnn.detect(large, lambda: None)
    hook.remove()
    assert max(sizes) <= 1024 * 12 / 20 + 1
    assert np.abs(face.keypoints / 4 - mtcnn.detect(ASTRONAUT, lambda: None)[0].keypoints).max() < 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (19, 19), (20, 20), (21, 3000), (900, 23)])
def test_pictures_of_any_shape_are_searched(mtcnn, shape):
    pixels = np.random.default_rng(7).integers(0, 256, (*shape, 3), np.uint8)
    assert mtcnn.detect(pixels, lambda: None) == []


def test_what_check_raises_ends_the_search(mtcnn):
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        mtcnn.detect(ASTRONAUT, check)
    assert len(calls) == 3


# --- the alignment ------------------------------------------------------------------------------------------------


def transformed(scale: float, degrees: float, x: float, y: float) -> Features:
    """Return the template's key points, rotated clockwise, scaled and moved."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return (scale * TEMPLATE @ turn.T + [x, y]).astype(np.float32)


@pytest.mark.parametrize(
    ("scale", "degrees", "x", "y"), [(1, 0, 0, 0), (2.5, 30, 40, -7), (0.3, -160, 5, 9), (7, 90, 0, 900)]
)
def test_a_similarity_is_found_again(scale, degrees, x, y):
    points = transformed(scale, degrees, x, y)
    matrix = similarity(points)
    assert np.abs(points @ matrix[:2, :2].T + matrix[:2, 2] - TEMPLATE).max() < 1e-3
    assert np.linalg.det(matrix[:2, :2]) == pytest.approx(scale**-2, rel=1e-4)


def test_a_similarity_is_the_best_there_is_and_never_a_mirror_image():
    generator = np.random.default_rng(7)
    points = generator.normal(50, 20, (5, 2)).astype(np.float32)
    for mirrored in (points, points * np.array([-1, 1], np.float32)):
        matrix = similarity(mirrored)
        (a, b), (c, d) = matrix[:2, :2]
        assert (a, b) == pytest.approx((d, -c))
        assert a * d - b * c > 0

        def distance(changed, points=mirrored) -> float:
            return float(((points @ changed[:2, :2].T + changed[:2, 2] - TEMPLATE) ** 2).sum())

        for _ in range(50):
            angle, stretch = generator.normal(0, 0.02), 1 + generator.normal(0, 0.02)
            other = matrix.copy()
            other[:2] = stretch * np.array([[1, -angle], [angle, 1]]) @ matrix[:2]
            other[:2, 2] += generator.normal(0, 0.3, 2)
            assert distance(matrix) <= distance(other)


@pytest.mark.parametrize(("scale", "degrees"), [(1, 0), (1.7, 20), (3.2, -35), (6.5, 10), (0.5, 5)])
def test_the_key_points_come_to_lie_on_the_template(scale, degrees):
    points = transformed(scale, degrees, 260, 300)
    rows, columns = np.indices((1200, 1200))
    distances = (np.hypot(columns - x, rows - y) / scale for x, y in points)
    spots = sum(200 * np.exp(-(distance**2) / 12) for distance in distances)
    crop = aligned(np.repeat(np.asarray(spots)[..., None], 3, 2).round().astype(np.uint8), points)
    assert crop.shape == (1, 112, 112, 3)
    rows, columns = np.indices((112, 112))
    for x, y in TEMPLATE:
        bright = crop[0, ..., 0] * (np.hypot(columns - x, rows - y) < 9).astype(float)
        assert (bright * columns).sum() / bright.sum() == pytest.approx(x, abs=0.1)
        assert (bright * rows).sum() / bright.sum() == pytest.approx(y, abs=0.1)


def test_the_crop_is_that_of_a_bilinear_warp():
    points = transformed(1.6, 15, 150, 40)
    back = torch.tensor(np.linalg.inv(similarity(points)))
    rows, columns = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    places = torch.stack([columns, rows, torch.ones(112, 112)], -1).double() @ back[:2].T  # (112, 112, 2) pixels
    grid = ((places + 0.5) / 512 * 2 - 1)[None]
    picture = torch.tensor(ASTRONAUT).permute(2, 0, 1)[None].double()
    wanted = functional.grid_sample(picture, grid, align_corners=False)[0].permute(1, 2, 0).numpy()
    assert np.abs(aligned(ASTRONAUT, points)[0] - wanted).max() <= 1.5


def test_a_large_face_is_averaged_not_sampled():
    checks = np.where(np.indices((900, 900)).sum(0) % 2, 255, 0).astype(np.uint8)
    crop = aligned(np.repeat(checks[..., None], 3, 2), transformed(6, 0, 40, 40))
    assert crop.min() >= 120
    assert crop.max() <= 135


def test_beyond_the_picture_it_is_black():
    crop = aligned(np.full((112, 112, 3), 200, np.uint8), transformed(1, 0, 56, 0))
    assert not crop[0, :, 60:].any()
    assert (crop[0, :, :50] == 200).all()


HEAD = np.array([[-32, 0, 0], [32, 0, 0], [0, 40, 27], [-25, 70, 0], [25, 70, 0]], float)
"""Key points of a head in millimetres: right, down, towards the camera."""


def projected(turned: float, nodded: float, rolled: float) -> Features:
    """Return a head's key points, rotated by angles in degrees, in parallel projection."""
    a, b, c = (math.radians(angle) for angle in (turned, nodded, rolled))
    turn = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    nod = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    roll = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return (HEAD @ (roll @ nod @ turn).T)[:, :2].astype(np.float32)


@pytest.mark.parametrize("rolled", [-120, 0, 25])
@pytest.mark.parametrize("nodded", [-15, 0, 15])
@pytest.mark.parametrize("turned", [-60, -30, 0, 10, 45, 75])
def test_yaw_is_told_from_nodding_and_rolling(turned, nodded, rolled):
    assert yaw(projected(turned, nodded, rolled)) == pytest.approx(turned, abs=8)


def test_a_profile_is_turned_by_ninety_degrees():
    assert yaw(projected(89.9, 0, 0)) > 85
    assert yaw(projected(110, 0, 0)) == 90
    assert yaw(np.zeros((5, 2), np.float32)) == 90


# --- the recogniser -----------------------------------------------------------------------------------------------


def test_the_layout_is_that_of_the_published_file():
    with torch.device("meta"):
        state = ArcFace().state_dict()
    assert len(state) == 397
    assert sum(weight.numel() for weight in state.values()) == 43_824_118
    assert state["body.0.res_layer.5.fc1.weight"].shape == (4, 64, 1, 1)
    assert state["body.3.shortcut_layer.0.weight"].shape == (128, 64, 1, 1)
    assert state["body.23.res_layer.3.weight"].shape == (512, 512, 3, 3)
    assert state["output_layer.3.weight"].shape == (512, 512 * 7 * 7)


def plainly(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Compute facexlib's IR-SE50 directly from named weights."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        mean, var, weight, bias = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", *"wb"))
        return functional.batch_norm(x, mean, var, weight, bias)

    weights = {name.replace(".weight", ".w").replace(".bias", ".b"): weight for name, weight in weights.items()}
    x = functional.conv2d(x, weights["input_layer.0.w"], padding=1)
    x = functional.prelu(norm("input_layer.1", x), weights["input_layer.2.w"])
    first = {sum(UNITS[:stage]) for stage in range(4)}
    for index in range(sum(UNITS)):
        stride, name = 2 if index in first else 1, f"body.{index}.res_layer"
        y = functional.conv2d(norm(f"{name}.0", x), weights[f"{name}.1.w"], padding=1)
        y = functional.prelu(y, weights[f"{name}.2.w"])
        y = norm(f"{name}.4", functional.conv2d(y, weights[f"{name}.3.w"], padding=1, stride=stride))
        gate = functional.conv2d(functional.adaptive_avg_pool2d(y, 1), weights[f"{name}.5.fc1.w"]).relu()
        y = y * functional.conv2d(gate, weights[f"{name}.5.fc2.w"]).sigmoid()
        x, name = x[..., ::stride, ::stride], f"body.{index}.shortcut_layer"
        if f"{name}.0.w" in weights:
            x = norm(f"{name}.1", functional.conv2d(x, weights[f"{name}.0.w"]))
        x = x + y
    x = norm("output_layer.0", x).flatten(1)
    x = norm("output_layer.4", functional.linear(x, weights["output_layer.3.w"], weights["output_layer.3.b"]))
    return x / x.norm(dim=1, keepdim=True)


def test_the_embedding_is_that_of_the_net_itself(home, checkpoint):
    face = face_in(loaded(home))
    assert face.crop is not None
    bgr = torch.tensor(face.crop.pixels[..., ::-1].copy()).permute(0, 3, 1, 2) / 255 * 2 - 1
    assert np.abs(plainly(weights_of(checkpoint), bgr)[0].numpy() - face.embedding).max() < 1e-5


def test_the_crop_is_cut_at_the_key_points_that_are_told(home):
    face = face_in(loaded(home))
    assert face.crop is not None
    assert np.array_equal(face.crop.pixels, aligned(ASTRONAUT, face.keypoints * 512))


def test_random_weights_are_the_same_every_time_and_small(checkpoint, tmp_path):
    write("tiny", tmp_path)
    first, second = weights_of(checkpoint), weights_of(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / FILE).stat().st_size < 4_500_000


# --- rejected checkpoints -----------------------------------------------------------------------------------------


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_a_pickle_that_runs_code_is_not_opened(home, tmp_path):
    (tmp_path / FILE).write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    with pytest.raises(ConfigError, match="has no IR-SE50"):
        loaded(home, recogniser=Weights(path=tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint", [1, 2], {}, {"weight": torch.ones(2)}])
def test_what_is_not_a_checkpoint(home, tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / FILE).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / FILE)
    with pytest.raises(ConfigError, match=f"path:{tmp_path.name} has no IR-SE50 in {FILE}"):
        loaded(home, recogniser=Weights(path=tmp_path))


@pytest.mark.parametrize("name", ["output_layer.4.running_mean", "body.23.res_layer.1.weight", "input_layer.0.weight"])
def test_a_weight_that_is_missing(home, checkpoint, tmp_path, name):
    weights = weights_of(checkpoint)
    del weights[name]
    torch.save(weights, tmp_path / FILE)
    with pytest.raises(ConfigError, match="has no IR-SE50"):
        loaded(home, recogniser=Weights(path=tmp_path))


def test_the_file_may_have_another_name(home, checkpoint, tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/face.pth").write_bytes((checkpoint / FILE).read_bytes())
    service = loaded(home, recogniser=Weights(path=tmp_path), recogniser_file="nets/face.pth")
    assert np.array_equal(face_in(service).embedding, face_in(loaded(home)).embedding)


def test_numbers_that_are_not_finite_are_an_error(home, checkpoint, tmp_path):
    weights = weights_of(checkpoint)
    weights["output_layer.3.bias"][0] = float("nan")
    torch.save(weights, tmp_path / FILE)
    with pytest.raises(ModelFailed, match="not finite"):
        face_in(loaded(home, recogniser=Weights(path=tmp_path)))


def test_weights_of_any_width_are_read():
    net = ArcFace(width=2, reduction=1)
    assert from_weights(net.state_dict()).output_layer[3].in_features == 16 * 7 * 7


def test_a_device_that_is_not_there(home):
    with pytest.raises(ConfigError, match="device"):
        loaded(home, device="cuda:99")


# --- insightface --------------------------------------------------------------------------------------------------


def pack(folder: Path) -> InsightFaceSettings:
    return InsightFaceSettings(kind="insightface", pack=folder)


def test_a_pack_that_is_not_there_or_lies_a_folder_deeper(home, tmp_path):
    (tmp_path / "antelopev2").mkdir()
    (tmp_path / "antelopev2/scrfd_10g_bnkps.onnx").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match=r"detector\.pack: there are no \.onnx files in "):
            loaded(home, detector=pack(folder))


WITHOUT = """
import sys
from pathlib import Path

sys.modules["insightface"] = None  # as if it were not installed
from services.errors import ConfigError
from tests.services.test_instantid_model import loaded, pack

try:
    loaded(Path(sys.argv[1]), detector=pack(Path(sys.argv[2])))
except ConfigError as error:
    print(error.message)
"""


def test_insightface_is_not_installed(home, tmp_path):
    (tmp_path / "scrfd_10g_bnkps.onnx").write_bytes(b"")
    command = [sys.executable, "-c", WITHOUT, str(home), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("detector: insightface is not installed")


OFFSETS = np.array([[-10, -12], [11, -10], [1, 1], [-8, 12], [9, 11]], float)
"""Key points in pixels from the centre of the face."""


def write_red_detector(folder: Path) -> None:
    """Write a network with SCRFD's inputs and outputs that detects a face of 64 x 64 in each red cell of 8 x 8."""
    nodes, constants, names = [], [], []

    def told(name: str, stride: int, weight, bias, activation: str) -> None:
        """Add one output, (anchors, values), computed from each cell's average."""
        values = len(bias) // 2
        part = f"{name}{stride}"
        constants.extend(
            [
                onnx.numpy_helper.from_array(np.array(weight, np.float32)[..., None, None], f"{part}_w"),
                onnx.numpy_helper.from_array(np.array(bias, np.float32), f"{part}_b"),
                onnx.numpy_helper.from_array(np.array([-1, values]), f"{part}_s"),
            ]
        )
        node = onnx.helper.make_node
        nodes.extend(
            [
                node("AveragePool", ["x"], [f"{part}_1"], kernel_shape=[stride] * 2, strides=[stride] * 2),
                node("Conv", [f"{part}_1", f"{part}_w", f"{part}_b"], [f"{part}_2"]),
                node("Transpose", [f"{part}_2"], [f"{part}_3"], perm=[0, 2, 3, 1]),
                node("Reshape", [f"{part}_3", f"{part}_s"], [f"{part}_4"]),
                node(activation, [f"{part}_4"], [part]),
            ]
        )
        names.append(onnx.helper.make_tensor_value_info(part, onnx.TensorProto.FLOAT, [None, values]))

    for stride in (8, 16, 32):
        told("score", stride, [[20, -10, -10]] * 2, [-30 if stride == 8 else -99] * 2, "Sigmoid")
    for stride in (8, 16, 32):
        told("box", stride, np.zeros((8, 3)), [4] * 8, "Identity")
    for stride in (8, 16, 32):
        told("points", stride, np.zeros((20, 3)), [*OFFSETS.ravel() / 8] * 2, "Identity")
    given = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, "height", "width"])
    graph = onnx.helper.make_graph(nodes, "red", [given], names, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "scrfd_10g_bnkps.onnx"))


def test_what_insightface_finds_is_passed_on(home, tmp_path):
    write_red_detector(tmp_path)
    picture = np.zeros((1280, 1280, 3), np.uint8)
    picture[480:496, 640:656, 0] = 255
    settings = InsightFaceSettings(kind="insightface", pack=tmp_path, sizes=(320, 640))
    face = face_in(loaded(home, detector=settings), picture)
    assert np.abs(face.box * 1280 - [576, 416, 704, 544]).max() < 0.01
    assert np.abs(face.keypoints * 1280 - ([640, 480] + 2 * OFFSETS)).max() < 0.01
    with pytest.raises(InvalidParameter, match="there is no face"):
        face_in(loaded(home, detector=settings), picture[..., ::-1])
    for shape in ((1, 2000), (2000, 3), (1, 1)):
        with pytest.raises(InvalidParameter, match="there is no face"):
            face_in(loaded(home, detector=settings), np.zeros((*shape, 3), np.uint8))
    with pytest.raises(InvalidParameter, match="there is no face"):
        face_in(loaded(home, detector=pack(tmp_path).model_copy(update={"sizes": (320,)})), picture)


def test_a_pack_without_a_detector(home, tmp_path):
    (tmp_path / "scrfd_10g_bnkps.onnx").write_bytes(b"not a net")
    with pytest.raises(ConfigError, match="has no detector"):
        loaded(home, detector=pack(tmp_path))
