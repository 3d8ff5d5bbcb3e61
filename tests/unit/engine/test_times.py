"""The model's own times come with the text of those windows that ask for them, from models that can write them."""

from collections.abc import Sequence

from asr_service.domain import Part, WindowOptions
from asr_service.engine.messages import Finished, Submit
from asr_service.models.base import Admitted, NewSequence
from tests.unit.engine.scripted import STOP, ScriptedRunner, features
from tests.unit.engine.test_core import Engine

ASKING = WindowOptions(timestamps=True, no_speech=True)


class TimedRunner(ScriptedRunner):
    """Gives each token a second of the window, and says that nobody speaks by the window's key."""

    def parts(self, tokens: Sequence[int], duration_s: float) -> tuple[Part, ...]:
        return tuple(Part(min(i, duration_s), duration_s, str(token), 1) for i, token in enumerate(tokens))

    def admit(self, first_row: int, batch: Sequence[NewSequence]) -> list[Admitted]:
        admitted = super().admit(first_row, batch)
        return [
            Admitted(row.language, row.tokens, new.features.duration_s / 10 if new.options.no_speech else None)
            for row, new in zip(admitted, batch, strict=True)
        ]


def test_only_who_asks_gets_times_and_the_chance_of_silence() -> None:
    engine = Engine(TimedRunner({1.0: [5, 6, STOP], 2.0: [7, 8, STOP]}))
    engine.core.submit(Submit(1, "r", b"", ASKING), features(1.0))
    engine.core.submit(Submit(2, "r", b"", WindowOptions()), features(2.0))
    engine.run()
    ends = {message.id: (message.parts, message.no_speech_prob) for message in engine.of(Finished)}
    assert ends == {1: ((Part(0, 1.0, "5", 1), Part(1, 1.0, "6", 1)), 0.1), 2: ((), None)}


def test_a_model_without_times_is_not_asked_for_them() -> None:
    engine = Engine(ScriptedRunner({1.0: [5, 6, STOP]}))
    engine.core.submit(Submit(1, "r", b"", ASKING), features(1.0))
    engine.run()
    (finished,) = engine.of(Finished)
    assert (finished.text, finished.parts, finished.no_speech_prob) == ("5 6", (), None)
