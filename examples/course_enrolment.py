"""Enrol students in courses: two limits, one decision, no lock and no aggregate.

A course has so many seats, and a student takes so many courses. Whether somebody may
enrol depends on the events of one course and of one student together, which no stream of
a single entity holds. So the decision reads what it needs, remembers how far it has
read, and appends on the condition that nothing which it depends on came since.

Usage: python examples/course_enrolment.py     many threads enrol at once
"""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from batpak import Coordinate, Durability, Region, Store, Unless, operation_key, payload
from batpak.errors import ConditionFailed

SCHOOL = "school:north"
COURSES_PER_STUDENT = 3


@payload(category=0xE, type_id=1)
class CourseOffered:
    seats: int


@payload(category=0xE, type_id=2)
class Enrolled:
    course: str
    student: str


class Refused(Exception):
    """The rules of the school say no."""


@dataclass(frozen=True)
class Decision:
    """What an enrolment depends on, and the last sequence that it has seen."""

    seats: int
    students: frozenset[str]
    courses: int
    seen: int


def course_of(name: str) -> Region:
    """What happens to a course: it is offered, and students enrol."""
    return Region(entity=f"course:{name}")


def student_of(name: str) -> Region:
    """What a student has enrolled for."""
    return Region(entity=f"student:{name}")


def offer(store: Store, course: str, seats: int) -> None:
    """Offer a course; offering it again changes nothing."""
    store.append(
        Coordinate(f"course:{course}", SCHOOL),
        CourseOffered(seats=seats),
        key=operation_key("offer", course),
    )


def look(store: Store, course: str, student: str) -> Decision:
    """Read both streams up to one moment."""
    # First the bound: what comes while we read is not seen, and the condition finds it.
    seen = len(store) - 1
    seats, students = 0, set[str]()
    for event in store.query(course_of(course)):
        if event.sequence > seen:
            break
        if isinstance(event.payload, CourseOffered):
            seats = event.payload.seats
        else:
            students.add(event.payload.student)
    courses = sum(event.sequence <= seen for event in store.query(student_of(student)))
    return Decision(seats, frozenset(students), courses, seen)


def enrol(store: Store, course: str, student: str) -> int:
    """Enrol, or raise Refused; how often it was decided anew.

    The two events are one commit: one in the course's stream, one in the student's.
    """
    fact = Enrolled(course=course, student=student)
    again = 0
    while True:
        decision = look(store, course, student)
        if student in decision.students:
            raise Refused(f"{student} has {course} already")
        if len(decision.students) >= decision.seats:
            raise Refused(f"{course} is full")
        if decision.courses >= COURSES_PER_STUDENT:
            raise Refused(f"{student} has {COURSES_PER_STUDENT} courses")
        try:
            with store.fence(
                unless=Unless(course_of(course), student_of(student), after=decision.seen)
            ) as fence:
                fence.append(Coordinate(f"course:{course}", SCHOOL), fact)
                fence.append(Coordinate(f"student:{student}", SCHOOL), fact)
        except ConditionFailed:
            # Somebody was faster, here or there. Nothing was written: look again.
            again += 1
        else:
            return again


def main(path: Path) -> None:
    courses = {"algebra": 5, "botany": 8, "chess": 12, "drama": 12}
    students = [f"s{number:02}" for number in range(20)]
    with Store.open(path, durability=Durability.OS) as store:
        for course, seats in courses.items():
            offer(store, course, seats)
        start = threading.Barrier(8)

        def work(worker: int) -> None:
            """Try every course for every student, from another one on for each worker."""
            start.wait()
            for step in range(len(students)):
                student = students[(worker * 5 + step) % len(students)]
                for course in courses:
                    try:
                        enrol(store, course, student)
                    except Refused:
                        continue

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

        for course, seats in courses.items():
            taken = [
                event.payload.student
                for event in store.query(course_of(course), after=0)
                if isinstance(event.payload, Enrolled)
            ]
            print(f"{course}: {len(taken)} of {seats} seats, {len(set(taken))} students")
        most = max(store.count(student_of(student)) for student in students)
        print(
            f"no student has more than {COURSES_PER_STUDENT} courses:", most <= COURSES_PER_STUDENT
        )
        print("journal verified:", store.verify().ok)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder) / "journal")
