"""What tests share; benchmarks may import it too."""
