"""Networks: `nn.Module`s without any training code."""
