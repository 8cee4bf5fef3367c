"""Files to tensors: safetensors and torch files, read without executing, trusting or copying anything in them."""
