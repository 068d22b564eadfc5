"""TKD's configuration and modules, their conversion and loading, students, LoRA, and features read from models."""
