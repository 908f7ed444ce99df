"""Ray Serve LLM's ingress over models of which some may sleep."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from raystill.serving.doors import Doors
from raystill.serving.stopping import StoppingIngress


class WakingIngress(StoppingIngress):
    """`idle_s` says which models sleep, and after how many idle seconds; each model's card tells its state."""

    def __init__(
        self,
        llm_deployments: dict[str, DeploymentHandle],
        model_cards: dict[str, Any],
        *,
        idle_s: Mapping[str, float],
        **options: Any,
    ) -> None:
        super().__init__(llm_deployments, model_cards, **options)
        self.doors = Doors(lambda model: llm_deployments[model].check_health.remote(), idle_s)

    async def model(self, model_id: str) -> Any:
        """A model's card."""
        card = await super().model(model_id)
        return card and card.model_copy(update={"metadata": {**card.metadata, "state": self.doors.state(model_id)}})

    async def _get_response(self, *, body: Any, **request: Any) -> AsyncIterator[Any]:
        model = await self._get_model_id(body.model)
        await self.doors.knock(model)
        try:
            async for piece in super()._get_response(body=body, **request):
                yield piece
        finally:
            self.doors.used(model)
