"""Watch one steered sample as it is drawn."""

from transformers import TextStreamer

from esamp import ESamp, generate
from esamp.backends.transformers.load import load

model, tokenizer = load(None)
inputs = tokenizer("The sea was calm until", return_tensors="pt")
streamer = TextStreamer(tokenizer, skip_prompt=True)
generate(model, **inputs, method=ESamp(), streamer=streamer, max_new_tokens=32, seed=1)
