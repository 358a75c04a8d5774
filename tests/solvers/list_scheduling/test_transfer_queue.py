"""Which moves start when bandwidth comes free: beside a loop over all that wait."""

import random

import pytest

from stream_mla.hardware.interconnect import Resource, Route
from stream_mla.solvers.list_scheduling.transfer_queue import TransferQueue


def route(*resources: int, demand: int) -> Route:
    return Route(resources=resources, demand=demand, latency_cycles=0, energy_pj_per_bit=0.0, links=(), multicast=False)


def nobody(_number: int) -> bool:
    return False


@pytest.mark.parametrize("seed", range(20))
def test_moves_start_as_if_all_were_tried(seed: int) -> None:
    """A DRAM that carries three moves, three ports with room for one, and a way between two ports."""
    rng = random.Random(seed)
    capacities = [6, 2, 2, 2]
    routes = [route(0, port, demand=2) for port in (1, 2, 3)] + [route(1, 2, demand=2)]
    traffic = TransferQueue(
        [Resource(name=str(number), capacity=capacity) for number, capacity in enumerate(capacities)]
    )
    free, waiting, running = list(capacities), dict[int, Route](), dict[int, Route]()
    urgency = rng.sample(range(1000), 200)
    for number in range(200):
        chosen = rng.choice(routes)
        traffic.offer(urgency[number], number, chosen)
        waiting[number] = chosen
        for ended in [n for n in running if rng.random() < 0.4]:
            traffic.end(running[ended])
            for resource in running.pop(ended).resources:
                free[resource] += 2
        begun: list[int] = []
        traffic.start(nobody, begun.append)
        expected: list[int] = []
        for candidate in sorted(waiting, key=lambda n: urgency[n]):
            if all(free[resource] >= 2 for resource in waiting[candidate].resources):
                expected.append(candidate)
                for resource in waiting[candidate].resources:
                    free[resource] -= 2
        assert begun == expected
        for started in begun:
            running[started] = waiting.pop(started)
    assert len(waiting) < 150  # of 200


def test_who_is_held_back_leaves_the_line_to_the_next() -> None:
    traffic = TransferQueue([Resource(name="bus", capacity=1)])
    for number in range(3):
        traffic.offer(number, number, route(0, demand=1))
    begun: list[int] = []
    traffic.start(lambda number: number == 0, begun.append)
    assert begun == [1]  # 2 finds the bus taken
    traffic.end(route(0, demand=1))
    traffic.start(nobody, begun.append)
    assert begun == [1, 2]
