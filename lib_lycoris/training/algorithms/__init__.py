"""lycoris-lora's modules on the layers that a training asks for; nothing of the algorithms themselves is here."""
