"""Every network in a variant that builds and learns in seconds: bins, frames and options."""

SMALL = {
    "alexnet": (100, 90, {"dense": 4}),
    "birdclef": (136, 104, {"dense": 4}),
    "cnn1": (24, 30, {"dense": (8, 4)}),
    "milsed": (20, 24, {"blocks": 3, "filters": 4, "dense": (8,)}),
    "simplecnn": (16, 24, {"dense": 8}),
    "resnet": (32, 40, {"width": 4}),
    "residual": (24, 30, {"width": 4}),
    "resnext": (32, 40, {"width": 4, "groups": 2, "group_width": 2}),
    "vggish": (16, 40, {"patch_frames": 16, "fully_connected": 8, "embedding": 4, "dense": 6}),
    "convlstm": (8, 30, {"patch_frames": 10, "filters": 6, "lstm": 5, "dense": (4, 4)}),
    "convnext": (24, 30, {"width": 4, "stages": (1, 2)}),
    "efficientnet": (24, 30, {"width": 0.1, "depth": 0.1}),
    "cuberun": (32, 66, {"padding": "same", "dense": 8}),
    "application": (32, 40, {"backbone": "MobileNetV3Small"}),
}
