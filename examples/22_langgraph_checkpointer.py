"""A LangGraph graph that asks, in one process, and goes on in the next: its checkpoints are sessions of an owner."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph  # pyright: ignore[reportMissingTypeStubs]  # typed, but not marked so
from langgraph.types import Command, interrupt

from agent_runtime import Owner, SessionConflict, SessionManager, open_stores
from agent_runtime_adapters.langgraph import LangGraphSaver

ANN, BOB = Owner(tenant_id="acme", user_id="ann"), Owner(tenant_id="acme", user_id="bob")
PAYMENT: Any = {"configurable": {"thread_id": "payment-7"}}


class Payment(TypedDict):
    amount: int
    receipt: str


async def approve(payment: Payment) -> dict[str, Any]:
    return {"amount": interrupt(f"How much of {payment['amount']} may be paid?")}


async def pay(payment: Payment) -> dict[str, Any]:
    print("   paying", payment["amount"])
    return {"receipt": f"paid {payment['amount']}"}


def graph_over(saver: LangGraphSaver) -> Any:
    graph: Any = StateGraph(Payment)
    graph.add_node("approve", approve)
    graph.add_node("pay", pay)
    graph.add_edge(START, "approve")
    graph.add_edge("approve", "pay")
    graph.add_edge("pay", END)
    return graph.compile(checkpointer=saver)


async def main(url: str) -> None:
    print("one process")
    async with open_stores(url) as stores:
        graph = graph_over(LangGraphSaver(SessionManager(stores.sessions, ttl=30 * 86_400), owner=ANN))
        [question] = (await graph.ainvoke({"amount": 100, "receipt": ""}, PAYMENT))["__interrupt__"]
        print("  ", question.value)

    print("the next one")
    async with open_stores(url) as stores:
        saver = LangGraphSaver(SessionManager(stores.sessions, ttl=30 * 86_400), owner=ANN)
        graph = graph_over(saver)
        print("   bob sees", await saver.of(BOB).aget_tuple(PAYMENT))
        async with saver.turn(PAYMENT):
            try:
                async with saver.turn(PAYMENT):  # as another worker would, to resume it too
                    print("   never")
            except SessionConflict as error:
                print("  ", error)
            result = await graph.ainvoke(Command(resume=80), PAYMENT)
        print("  ", result["receipt"])

        print("the whole thread, the newest first")
        async for state in graph.aget_state_history(PAYMENT):
            print("  ", state.metadata["step"], state.values, state.next)
        await saver.adelete_thread("payment-7")


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        asyncio.run(main(f"sqlite:///{Path(folder) / 'agent.db'}"))

# Output:
# one process
#    How much of 100 may be paid?
# the next one
#    bob sees None
#    session 'lg-payment-7' is held by another run; try again when that has ended
#    paying 80
#    paid 80
# the whole thread, the newest first
#    2 {'amount': 80, 'receipt': 'paid 80'} ()
#    1 {'amount': 80, 'receipt': ''} ('pay',)
#    0 {'amount': 100, 'receipt': ''} ('approve',)
#    -1 {} ('__start__',)
