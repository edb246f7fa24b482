"""Two prompts in one batch: one explores, the other is sampled plainly."""

from esamp import ESamp, generate
from esamp.backends.transformers.load import load

model, tokenizer = load(None)
prompts = ["Name an animal nobody thinks of:", "2 + 2 ="]
inputs = tokenizer(prompts, return_tensors="pt", padding=True)
output = generate(
    model,
    **inputs,
    method=ESamp(),
    esamp_beta=[0.5, 0.0],
    num_return_sequences=4,
    max_new_tokens=8,
    seed=1,
)
start = inputs["input_ids"].shape[1]
for row, text in enumerate(tokenizer.batch_decode(output.sequences[:, start:])):
    print(prompts[row // 4], text.strip())
