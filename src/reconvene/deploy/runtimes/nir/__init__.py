"""NIR, the neuromorphic intermediate representation: files of spiking networks for neuromorphic chips."""
