"""Who helps this target: rankings of experts, with reasons."""
