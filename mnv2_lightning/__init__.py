"""MobileNetV2 on MNIST with PyTorch Lightning and Hydra."""
