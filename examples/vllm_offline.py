"""Eight different stories from vLLM, offline. The plugin is found by itself; requests must ask."""

from vllm import LLM, SamplingParams

from esamp.backends.transformers.load import demo_model


def main() -> None:
    llm = LLM(
        model=demo_model(),  # or any model that vLLM serves
        additional_config={"esamp": {}},
        kv_cache_memory_bytes=1 << 30,
        enforce_eager=True,
    )
    params = SamplingParams(
        n=8, temperature=1.0, max_tokens=32, seed=1, extra_args={"esamp_beta": 0.25}
    )
    (output,) = llm.generate(["Once upon a time"], params, use_tqdm=False)
    for sample in output.outputs:
        print("-", sample.text.strip().replace("\n", " "))
    stats = llm.collective_rpc("esamp_stats")[0]
    print(f"{stats['rows_steered']} tokens steered, error {stats['distiller_error']:.2f}")


if __name__ == "__main__":  # vLLM starts processes of its own, which import this file
    main()
