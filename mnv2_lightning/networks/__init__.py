"""The networks: plain `nn.Module`s that know nothing of training."""
