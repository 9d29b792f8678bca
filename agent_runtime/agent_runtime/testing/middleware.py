"""What every layer promises."""

from agent_runtime.testing.middleware_cancellation import CancellationPromises
from agent_runtime.testing.middleware_failures import FailurePromises
from agent_runtime.testing.middleware_isolation import IsolationPromises
from agent_runtime.testing.middleware_parity import ParityPromises


class MiddlewareContract(ParityPromises, FailurePromises, CancellationPromises, IsolationPromises):
    """Subclass it with a name that starts with `Test`, implement `make`, and pytest runs the promises of every layer.

    Each run goes through a real executor around the layer, which is watched from both sides at the run, the model and
    the tool stage: text in pieces, a tool, text in pieces. Needs anyio's pytest plugin with `anyio_mode = "auto"`.

    A layer is held to the strict form of the promises, unless its class says what it does on purpose.

    Attributes:
        holds_text: It holds text back, to look at whole words for instance: it may cut the text into other pieces, and
            gives out all of it before it returns.
        changes_answer: It changes what a healthy run answers: output, data, messages, metadata, and text on its way. The
            change depends on nothing but the run, and is the same in every form. The text that is streamed is then the
            output, or what the model said. All the rest stays as it is: errors, cancellations, usage.
        may_call_again: After a retryable error it may call what is inside again.
        may_answer: A retryable error it may answer itself: with a result, or with an error of its own.
        runs: How many runs are inside at once, and how many are counted when nothing may be kept of them.
        patience: Seconds after which a run, or all those at once, hang.
    """
