"""NeMo Data Designer: a seed data set of prompts and two text columns, the second of which quotes the first."""

from __future__ import annotations

from collections.abc import Callable

from contender import INSTRUCTION_TOKENS, RESPONSE_TOKENS, Task, compete


def prepare(task: Task) -> Callable[[list[str]], int]:
    """A designer for the task's server."""
    import data_designer.config as dd
    import pandas as pd
    from data_designer.interface import DataDesigner

    designer = DataDesigner(
        artifact_path=task.folder,
        model_providers=[dd.ModelProvider(name="local", endpoint=task.url, provider_type="openai", api_key="none")],
    )
    designer.set_run_config(  # each of these makes it faster than its default does
        dd.RunConfig(
            disable_early_shutdown=True, buffer_size=task.rows, otel_metrics_port=None, jinja_rendering_engine="native"
        )
    )  # fmt: skip

    def work(prompts: list[str]) -> int:
        models = [
            dd.ModelConfig(
                alias=alias, model="model", provider="local", skip_health_check=True,
                inference_parameters=dd.ChatCompletionInferenceParams(
                    temperature=0.7, max_tokens=max_tokens, max_parallel_requests=task.concurrency
                ),
            )
            for alias, max_tokens in (("instruct", INSTRUCTION_TOKENS), ("respond", RESPONSE_TOKENS))
        ]  # fmt: skip
        builder = dd.DataDesignerConfigBuilder(model_configs=models)
        builder.with_seed_dataset(dd.DataFrameSeedSource(df=pd.DataFrame({"request": prompts})))
        for name, reads, alias in (("instruction", "request", "instruct"), ("response", "instruction", "respond")):
            builder.add_column(dd.LLMTextColumnConfig(name=name, prompt=f"{{{{ {reads} }}}}", model_alias=alias))
        rows = designer.create(builder, num_records=len(prompts), dataset_name=f"rows{len(prompts)}").load_dataset()
        return int((rows["instruction"].astype(bool) & rows["response"].astype(bool)).sum())

    return work


if __name__ == "__main__":
    compete(prepare)
