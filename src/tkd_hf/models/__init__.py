"""TKD's modules, the table of architectures, conversion, the one loader, students, LoRA, and recorded features."""
