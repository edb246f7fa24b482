"""What an RL trainer needs: samples, and log-probabilities of the policy that drew them."""

from esamp import ESamp, generate
from esamp.backends.transformers.load import load

model, tokenizer = load(None)
inputs = tokenizer("Question: what is 7 times 8? Answer:", return_tensors="pt")
output = generate(
    model,
    **inputs,
    method=ESamp(beta=0.25),
    diagnostics=True,
    num_return_sequences=8,
    max_new_tokens=12,
    seed=1,
)
# The behaviour policy is not the model: correct for it with these two.
ratio = (output.reference_logprobs - output.logprobs).nansum(dim=1).exp()
print("importance weights", [f"{weight:.2f}" for weight in ratio.tolist()])
