"""Gates: nothing is permitted by accident, what each gate did is recorded, a pass is used once."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batpak import (
    Bypass,
    Coordinate,
    Denial,
    Denied,
    EventKind,
    GateContext,
    GateSet,
    Passed,
    Region,
    Store,
    canonical,
    gate,
    kinds,
    payload,
)
from batpak.errors import (
    CanonicalError,
    ExtensionError,
    GateDenied,
    GatePassError,
    InvalidInput,
    UnregisteredPayload,
)
from batpak.gates import (
    BYPASS_EXTENSION,
    GATE_DEFECT,
    DenialPayload,
    Evaluation,
    FunctionGate,
    Pipeline,
    ReadView,
    Verdict,
)
from batpak.receipt import encode_extensions

PERMIT, DENY, SKIPPED = Verdict.PERMIT, Verdict.DENY, Verdict.SKIPPED
KIND = EventKind(0xA, 0xE01)


@payload(category=0xA, type_id=0xE02)
class Paid:
    amount: int
    tags: list[str] = []  # noqa: RUF012  # a field's default, copied for each instance


class Recording:
    """A gate that answers as told and counts how often it was asked."""

    description = "answers as told"

    def __init__(self, name: str, answer: Any = None) -> None:
        self.name = name
        self.answer = answer
        self.asked: list[Any] = []

    def decide(self, context: Any) -> Any:
        self.asked.append(context)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return Denial(self.name, "no", code="NO") if self.answer == "deny" else self.answer


def verdicts(answer: Passed[Any, Any] | Denied) -> list[Verdict]:
    return [one.verdict for one in answer.evaluations]


# --- sets ----------------------------------------------------------------------------


@pytest.mark.proves("INV-GATES-FAIL-CLOSED")
def test_the_first_denial_stops_and_the_rest_is_recorded_as_skipped() -> None:
    gates = [Recording("a"), Recording("b", "deny"), Recording("c", "deny"), Recording("d")]
    answer = GateSet(gates).check("it")
    assert isinstance(answer, Denied)
    assert [one.asked for one in gates] == [["it"], ["it"], [], []]
    assert verdicts(answer) == [PERMIT, DENY, SKIPPED, SKIPPED]
    assert [one.gate for one in answer.evaluations] == ["a", "b", "c", "d"]
    assert answer.denials == (Denial("b", "no", code="NO"),)
    assert answer.denial is answer.denials[0]
    assert str(answer) == "a permit, b deny, c skipped, d skipped"


@pytest.mark.proves("INV-GATES-FAIL-CLOSED")
def test_check_all_asks_every_gate() -> None:
    gates = [Recording("a", "deny"), Recording("b"), Recording("c", ValueError("x"))]
    answer = GateSet(gates).check_all("it")
    assert isinstance(answer, Denied)
    assert [len(one.asked) for one in gates] == [1, 1, 1]
    assert verdicts(answer) == [DENY, PERMIT, DENY]
    assert [one.gate for one in answer.denials] == ["a", "c"]
    permitted = GateSet([Recording("a"), Recording("b")]).check_all("it")
    assert isinstance(permitted, Passed)
    assert permitted.gates == ("a", "b")
    assert verdicts(permitted) == [PERMIT, PERMIT]


def test_a_denial_is_false_and_a_pass_is_true() -> None:
    assert GateSet([Recording("a")]).check(None)
    assert not GateSet([Recording("a", "deny")]).check(None)
    assert GateSet([]).check(None)
    assert GateSet([])


def test_two_gates_of_one_name_are_told_apart_by_their_place() -> None:
    answer = GateSet([Recording("a"), Recording("a", "deny"), Recording("a")]).check(None)
    assert verdicts(answer) == [PERMIT, DENY, SKIPPED]


@pytest.mark.proves("INV-GATES-FAIL-CLOSED")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ValueError("the password is hunter2"), "it raised ValueError"),
        (RecursionError(), "it raised RecursionError"),
        (ExceptionGroup("g", [ValueError("x")]), "it raised ExceptionGroup"),
        (True, "it gave a bool"),
        (False, "it gave a bool"),
        ("", "it gave a str"),
        ([], "it gave a list"),
        (Denial, "it gave a type"),
        (GateDenied("no"), "it raised GateDenied"),
        (Denial("other", "no"), "it gave a denial in the name of other"),
    ],
)
def test_a_gate_that_does_not_decide_denies(answer: Any, says: str) -> None:
    for check in (GateSet.check, GateSet.check_all):
        found = check(GateSet([Recording("a", answer)]), None)
        assert isinstance(found, Denied)
        assert found.denial.code == GATE_DEFECT == "GATE_DEFECT"
        assert says in found.denial.message
        assert found.cause is (answer if isinstance(answer, Exception) else None)
        # What the exception says may be a secret: its type is all that is told or stored.
        for text in (str(found.error()), repr(found), found.payload(KIND).encode().decode("l1")):
            assert "hunter2" not in text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_passes_through(stop: type[BaseException]) -> None:
    later = Recording("b")
    for check in (GateSet.check, GateSet.check_all):
        with pytest.raises(stop):
            check(GateSet([Recording("a", stop()), later]), None)
    assert later.asked == []


def test_the_name_of_a_strange_exception_is_made_harmless() -> None:
    strange = type("Ü\n" + "x" * 500, (Exception,), {})
    found = GateSet([Recording("a", strange())]).check(None)
    assert isinstance(found, Denied)
    assert found.denial.message.isascii()
    assert len(found.denial.message) < 300


@pytest.mark.parametrize(
    "thing", [None, "text", len, object(), type("NoName", (), {"decide": lambda self, c: None})()]
)
def test_what_is_no_gate_is_refused_when_the_set_is_made(thing: Any) -> None:
    with pytest.raises(InvalidInput):
        GateSet([Recording("a"), thing])


@pytest.mark.parametrize("attribute", ["name", "decide"])
def test_a_gate_that_can_not_be_looked_at_is_refused(attribute: str) -> None:
    def broken(self: Any) -> Any:
        raise RuntimeError("secret")

    bad = type("Bad", (Recording,), {attribute: property(broken, lambda self, value: None)})
    with pytest.raises(InvalidInput, match=r"gate 1 .* RuntimeError") as caught:
        GateSet([Recording("a"), bad("b")])
    assert (caught.value.field, caught.value.index) == ("gates", 1)
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_coroutine_is_no_gate() -> None:
    class Later:
        name = "later"
        description = ""

        async def decide(self, context: Any) -> None:
            return None

    with pytest.raises(InvalidInput):
        GateSet([Later()])  # type: ignore[list-item]  # the refusal is the test
    with pytest.raises(InvalidInput):

        @gate("later")  # type: ignore[arg-type]  # the refusal is the test
        async def later(context: Any) -> None:
            return None


@pytest.mark.parametrize("name", ["", "ü", "a\nb", "x" * 257, None, 5, "\x7f"])
def test_gates_have_printable_names(name: Any) -> None:
    for make in (
        lambda: gate(name)(lambda context: None),
        lambda: Denial(name, "no"),
        lambda: GateSet([Recording(name)]),
    ):
        with pytest.raises(InvalidInput) as caught:
            make()
        assert caught.value.field in ("name", "gate")
    assert Denial("x" * 256, "no").gate == "x" * 256


def test_a_name_is_read_once() -> None:
    one = Recording("a")
    gates = GateSet([one])
    one.name = "other\n"
    assert gates.names == ("a",)
    assert verdicts(gates.check(None)) == [PERMIT]


def test_a_function_becomes_a_gate() -> None:
    @gate("size_limit", "payloads of at most 4 bytes")
    def size_limit(context: GateContext) -> Denial | None:
        if len(context.raw) > 4:
            return size_limit.denial("too large", code="SIZE", context={"bytes": len(context.raw)})
        return None

    assert isinstance(size_limit, FunctionGate)
    assert (size_limit.name, size_limit.description) == (
        "size_limit", "payloads of at most 4 bytes",
    )  # fmt: skip
    here = Coordinate("a", "b")
    assert GateSet([size_limit]).check(GateContext.of(here, "abc", kind=KIND))
    found = size_limit(GateContext.of(here, "abcdef", kind=KIND))
    assert found == Denial("size_limit", "too large", code="SIZE", context=[("bytes", "7")])
    assert str(found) == "[size_limit] too large"
    assert size_limit.denial("no") == Denial("size_limit", "no", code="", context=())
    assert gate("bare")(lambda context: None).description == ""
    for description in (5, "\ud800"):
        with pytest.raises(InvalidInput) as caught:
            gate("g", description)(lambda context: None)  # type: ignore[arg-type]  # the refusal is the test
        assert caught.value.field == "description"


def test_a_set_is_a_sequence_of_its_gates() -> None:
    gates = [Recording("a"), Recording("b")]
    found = GateSet(iter(gates))
    assert list(found) == gates
    assert (len(found), found.names) == (2, ("a", "b"))
    assert len(GateSet()) == 0
    for name in ("names", "_gates", "new"):
        with pytest.raises(AttributeError):
            setattr(found, name, ())
        with pytest.raises(AttributeError):
            delattr(found, name)


# --- denials -------------------------------------------------------------------------


def test_the_context_of_a_denial_keeps_order_and_repetition() -> None:
    pairs = (("b", "1"), ("a", "2"), ("b", "3"))
    assert Denial("g", "m", context=pairs).context == pairs
    assert Denial("g", "m", context=iter(pairs)).context == pairs
    assert Denial("g", "m", context={"n": -5}).context == (("n", "-5"),)
    assert Denial("g", "m").context == ()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Denial("g", b"m"), "message"),
        (lambda: Denial("g", "\ud800"), "message"),
        (lambda: Denial("g", "m", code=None), "code"),
        (lambda: Denial("g", "m", context={"a": 1.5}), "context"),
        (lambda: Denial("g", "m", context={"a": True}), "context"),
        (lambda: Denial("g", "m", context=[("a",)]), "context"),
        (lambda: Denial("g", "m", context=5), "context"),
        (lambda: Denial("g", "m", context={"\udfff": ""}), "context"),
        (lambda: Evaluation("g", DENY), "denial"),
        (lambda: Evaluation("g", PERMIT, Denial("g", "m")), "denial"),
        (lambda: Evaluation("g", DENY, Denial("h", "m")), "denial"),
        (lambda: Evaluation("g", "Permit"), "verdict"),
        (lambda: Evaluation("g", PERMIT, evidence_hash=b"short"), "evidence_hash"),
        (lambda: Denied([]), "evaluations"),
        (lambda: Denied([Evaluation("g", PERMIT), Evaluation("h", SKIPPED)]), "evaluations"),
        (lambda: Denied(["g"]), "evaluations"),
        (lambda: DenialPayload((), 0xA009), "proposed_kind"),
        (lambda: DenialPayload(("g",), KIND), "evaluations"),
        (lambda: DenialPayload((), KIND, pipeline_id=5), "pipeline_id"),
        (lambda: DenialPayload((), KIND, proposed_content_hash=bytes(31)), "proposed_content_hash"),
        (lambda: Denied.of(Denial("g", "m")).payload(KIND, content_hash=b"1"), "content_hash"),
    ],
)
def test_evidence_that_could_not_be_stored_is_refused(make: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.field == field


@pytest.mark.parametrize(
    "value",
    [
        Denial("g", "m"),
        Evaluation("g", PERMIT),
        DenialPayload((), KIND),
        Bypass("r", "j"),
        FunctionGate("g", "", len),
        Pipeline(GateSet([])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_evidence_can_not_be_changed(value: Any) -> None:
    for name in value.__slots__:
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    if not isinstance(value, (FunctionGate, Pipeline)):
        assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value)


def test_a_denied_raises_as_a_conflict_that_carries_the_trace() -> None:
    denied = GateSet([Recording("a"), Recording("b", "deny"), Recording("c")]).check(None)
    assert isinstance(denied, Denied)
    error = denied.error()
    assert isinstance(error, GateDenied)
    assert (error.code, error.retryable) == ("gate-denied", False)
    assert (error.gate, error.reason, error.denied) == ("b", "NO", denied)
    assert "a permit, b deny, c skipped" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert again.denied == denied


@pytest.mark.parametrize(
    "make",
    [
        lambda: Denied.of(5),
        lambda: Denied.of(None),
        lambda: Denied(None),
        lambda: Denied(Denial("g", "no")),
        lambda: Denied([Denial("g", "no")]),
        lambda: DenialPayload(5, KIND),
    ],
)
def test_a_denied_is_made_of_denials_only(make: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.field in ("denial", "evaluations")
    assert "Denied.of" in caught.value.advice


def test_a_denied_travels_without_what_the_gate_raised() -> None:
    unpicklable = ValueError(lambda: None)
    denied = GateSet([Recording("a", unpicklable)]).check(None)
    assert isinstance(denied, Denied)
    again = pickle.loads(pickle.dumps(denied))
    assert (again, again.cause) == (denied, None)
    assert hash(again) == hash(denied)
    for name in ("cause", "evaluations"):
        with pytest.raises(AttributeError):
            setattr(denied, name, None)
        with pytest.raises(AttributeError):
            delattr(denied, name)


# --- the denial event's payload ---------------------------------------------------------

# The bytes of the Rust system.
STORED = bytes.fromhex(
    "84ab6576616c756174696f6e739383a7676174655f6964a9616c6c6f775f616c6ca776657264696374a65065"
    "726d6974ad65766964656e63655f68617368c083a7676174655f6964a964656e795f67617465a77665726469"
    "637481a444656e7983a4636f6465a7424c4f434b4544a76d657373616765a7626c6f636b6564a7636f6e7465"
    "78749192a6726561736f6ea474657374ad65766964656e63655f68617368c083a7676174655f6964a17aa776"
    "657264696374a7536b6970706564ad65766964656e63655f68617368c0ab706970656c696e655f6964ad7069"
    "70656c696e653a74657374ad70726f706f7365645f6b696e64cda009b570726f706f7365645f636f6e74656e"
    "745f68617368c0"
)


@pytest.mark.proves("INV-DENIAL-BYTES")
def test_a_denial_event_has_the_bytes_of_the_rust_system() -> None:
    @gate("deny_gate")
    def deny_gate(context: Any) -> Denial:
        return deny_gate.denial("blocked", code="BLOCKED", context={"reason": "test"})

    denied = GateSet([Recording("allow_all"), deny_gate, Recording("z")]).check(None)
    assert isinstance(denied, Denied)
    made = denied.payload(EventKind(0xA, 9), pipeline_id="pipeline:test")
    assert made.encode() == STORED
    assert canonical.encode(made) == STORED
    assert DenialPayload.decode(STORED) == made
    assert DenialPayload.decode(memoryview(STORED)).denials == denied.denials


def test_hashes_are_stored_as_arrays_and_read_in_either_form() -> None:
    digest = bytes(range(200, 232))
    made = Denied.of(Denial("g", "m")).payload(kinds.SYSTEM_INIT, content_hash=digest)
    plain = canonical.decode(made.encode())
    assert plain["proposed_content_hash"] == list(digest)
    assert plain["proposed_kind"] == 1
    assert DenialPayload.decode(made.encode()) == made
    plain["proposed_content_hash"] = digest
    plain["evaluations"][0]["evidence_hash"] = digest
    read = DenialPayload.decode(canonical.encode(plain))
    assert read.proposed_content_hash == digest
    assert read.evaluations[0].evidence_hash == digest
    assert DenialPayload.decode(read.encode()) == read


@pytest.mark.proves("INV-DENIAL-BYTES")
def test_a_reader_ignores_keys_of_later_versions_and_names_of_other_writers() -> None:
    plain = canonical.decode(STORED)
    plain["later"] = {"x": 1}
    plain["evaluations"][1]["later"] = 1
    plain["evaluations"][1]["verdict"]["Deny"]["later"] = 1
    assert DenialPayload.decode(canonical.encode(plain)) == DenialPayload.decode(STORED)
    for one in plain["evaluations"]:
        one["gate_id"] = "ü\n"
    read = DenialPayload.decode(canonical.encode(plain))
    assert [one.gate for one in read.evaluations] == ["ü\n"] * 3
    assert read.denials[0].gate == "ü\n"
    assert canonical.decode(read.encode())["evaluations"][0]["gate_id"] == "ü\n"


def broken() -> Iterator[tuple[str, Any]]:
    """Plain values that are nearly a denial's payload: the path of the fault, and the value."""

    def changed(path: str, *steps: Any, value: Any = ...) -> tuple[str, Any]:
        plain = canonical.decode(STORED)
        here = plain
        for step in steps[:-1]:
            here = here[step]
        if value is ...:
            del here[steps[-1]]
        else:
            here[steps[-1]] = value
        return path, plain

    deny = ("evaluations", 1, "verdict", "Deny")
    at = "$.evaluations[1]"
    yield "$", []
    yield "$", {}
    yield changed("$", "evaluations")
    yield changed("$", "proposed_kind")
    yield changed("$.evaluations", "evaluations", value={})
    yield changed(at, "evaluations", 1, value=5)
    yield changed("$.proposed_kind", "proposed_kind", value=0x10000)
    yield changed("$.proposed_kind", "proposed_kind", value=-1)
    yield changed("$.proposed_kind", "proposed_kind", value=True)
    yield changed("$.proposed_content_hash", "proposed_content_hash", value=[1] * 31)
    yield changed("$.proposed_content_hash", "proposed_content_hash", value=[256] * 32)
    yield changed("$.proposed_content_hash", "proposed_content_hash", value="x" * 32)
    yield changed("$.pipeline_id", "pipeline_id", value=7)
    yield changed(at, "evaluations", 1, "gate_id")
    yield changed(f"{at}.gate_id", "evaluations", 1, "gate_id", value=b"g")
    yield changed(f"{at}.evidence_hash", "evaluations", 1, "evidence_hash", value=0)
    yield changed(at, "evaluations", 1, "verdict")
    yield changed(f"{at}.verdict", "evaluations", 1, "verdict", value="Deny")
    yield changed(f"{at}.verdict", "evaluations", 1, "verdict", value=["Permit"])
    yield changed(f"{at}.verdict", "evaluations", 1, "verdict", value={"Permit": {}})
    yield changed(f"{at}.verdict", "evaluations", 1, "verdict", "Skipped", value={})
    yield changed(f"{at}.verdict.Deny", *deny, value=[])
    yield changed(f"{at}.verdict.Deny", *deny, "message")
    yield changed(f"{at}.verdict.Deny.code", *deny, "code", value=None)
    yield changed(f"{at}.verdict.Deny.context", *deny, "context", value={"a": "b"})
    yield changed(f"{at}.verdict.Deny.context[0]", *deny, "context", value=[["a"]])
    yield changed(f"{at}.verdict.Deny.context[1]", *deny, "context", value=[["a", "b"], ["a", 1]])


@pytest.mark.parametrize(("path", "plain"), list(broken()))
def test_bytes_that_are_no_denial_are_refused_with_their_place(path: str, plain: Any) -> None:
    with pytest.raises(CanonicalError) as caught:
        DenialPayload.decode(canonical.encode(plain))
    assert caught.value.path == path


@pytest.mark.parametrize("raw", [b"", b"\xc1", STORED[:-1], STORED + b"\x00"])
def test_bytes_that_are_no_value_are_refused(raw: bytes) -> None:
    with pytest.raises(CanonicalError):
        DenialPayload.decode(raw)


# --- passes --------------------------------------------------------------------------

HERE = Coordinate("account:1", "bank")


@pytest.mark.proves("INV-RECEIPT-SEALED")
def test_a_pass_is_made_by_gates_only() -> None:
    passed = GateSet([Recording("a")]).check("it", "proposal")
    assert isinstance(passed, Passed)
    forgeries = (
        lambda: Passed(object(), GateSet([]), "it", "proposal"),
        lambda: copy.copy(passed),
        lambda: copy.deepcopy(passed),
        lambda: pickle.dumps(passed),
        lambda: object.__new__(Passed).spend(),
        lambda: object.__new__(Passed).spend_on(None),
    )
    for forge in forgeries:
        with pytest.raises(GatePassError) as caught:
            forge()
        assert caught.value.reason in ("forged", "copied")
    for name in ("context", "_proposal", "_unspent", "new"):
        with pytest.raises(AttributeError):
            setattr(passed, name, [1])
        with pytest.raises(AttributeError):
            delattr(passed, name)
    assert passed.spend() == "proposal"


@pytest.mark.proves("INV-RECEIPT-SEALED")
def test_a_pass_is_good_for_one_commit() -> None:
    passed = GateSet([Recording("a")]).check("it", "proposal")
    assert isinstance(passed, Passed)
    assert not passed.is_spent
    assert passed.spend() == "proposal"
    assert passed.is_spent
    for call in (passed.spend, lambda: passed.spend_on("it")):
        with pytest.raises(GatePassError) as caught:
            call()
        assert caught.value.reason == "spent"


@pytest.mark.proves("INV-RECEIPT-SEALED")
def test_of_many_threads_one_spends_a_pass() -> None:
    gates = GateSet([Recording("a")])
    for _ in range(200):
        passed = gates.check(None)
        assert isinstance(passed, Passed)
        start = threading.Barrier(4)
        spent: list[int] = []

        def use(number: int, passed: Any = passed, start: Any = start, spent: Any = spent) -> None:
            start.wait()
            try:
                passed.spend()
            except GatePassError:
                return
            spent.append(number)

        threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(spent) == 1


def context(**changes: Any) -> GateContext:
    given: dict[str, Any] = {"coordinate": HERE, "payload": Paid(5), "extensions": {"a.b": b"1"}}
    return GateContext.of(**(given | changes))


@pytest.mark.proves("INV-RECEIPT-SEALED")
@pytest.mark.parametrize(
    "changes",
    [
        {"coordinate": Coordinate("account:2", "bank")},
        {"coordinate": Coordinate("account:1", "shop")},
        {"payload": Paid(6)},
        {"payload": {"amount": 5, "tags": []}, "kind": KIND},
        {"extensions": {}},
        {"extensions": {"a.b": b"2"}},
    ],
)
def test_a_pass_is_good_for_the_proposal_that_was_checked(changes: dict[str, Any]) -> None:
    passed = GateSet([Recording("a")]).check(context())
    assert isinstance(passed, Passed)
    with pytest.raises(GatePassError) as caught:
        passed.spend_on(context(**changes))
    assert caught.value.reason == "other-proposal"
    # It was not used up by that, and is good for an equal context made anew.
    passed.spend_on(context())
    assert passed.is_spent


def test_the_version_of_a_payload_is_part_of_the_proposal() -> None:
    typed = GateContext.of(HERE, Paid(5))
    untyped = GateContext(HERE, typed.kind, typed.raw)
    passed = GateSet([]).check(typed)
    assert isinstance(passed, Passed)
    with pytest.raises(GatePassError):
        passed.spend_on(untyped)


def test_any_other_context_counts_by_identity() -> None:
    first, equal = ["it"], ["it"]
    passed = GateSet([Recording("a")]).check(first)
    assert isinstance(passed, Passed)
    for other in (equal, context(), None):
        with pytest.raises(GatePassError):
            passed.spend_on(other)
    passed.spend_on(first)


# --- what a gate is told -----------------------------------------------------------------


@pytest.mark.proves("INV-GATES-JUDGE-THE-BYTES")
def test_a_gate_judges_the_bytes_and_can_not_change_them() -> None:
    given = {"amount": 1, "tags": ["x"]}
    told = GateContext.of(HERE, given, kind=KIND)
    given["amount"] = 1_000_000
    seen: list[Any] = []

    @gate("meddler")
    def meddler(context: GateContext) -> None:
        context.payload["amount"] = 7
        context.value["tags"].append("y")

    @gate("judge")
    def judge(context: GateContext) -> None:
        seen.append((context.payload, context.value))

    passed = GateSet([meddler, judge]).check(told)
    assert passed
    assert seen == [({"amount": 1, "tags": ["x"]},) * 2]
    assert canonical.decode(told.raw) == {"amount": 1, "tags": ["x"]}
    for name in ("raw", "kind", "coordinate", "_view", "new"):
        with pytest.raises(AttributeError):
            setattr(told, name, b"")
        with pytest.raises(AttributeError):
            delattr(told, name)
    with pytest.raises(TypeError):
        told.extensions["a.b"] = b""  # type: ignore[index]  # the refusal is the test


def test_a_context_tells_the_class_and_the_plain_value() -> None:
    told = GateContext.of(HERE, Paid(5, ["t"]), extensions={"acme.trace": b"1"})
    assert told.payload == Paid(5, ["t"])
    assert told.value == {"amount": 5, "tags": ["t"]}
    assert (told.kind, told.payload_version) == (EventKind(0xA, 0xE02), 1)
    assert dict(told.extensions) == {"acme.trace": b"1"}
    assert "account:1@bank" in repr(told)
    raw = GateContext(HERE, KIND, b"\xc1")
    with pytest.raises(CanonicalError):
        _ = raw.value
    # A gate that needs the value of bytes that have none can't decide, so it denies.
    denied = GateSet([FunctionGate("g", "", lambda context: context.value)]).check(raw)
    assert isinstance(denied, Denied)
    assert "CanonicalError" in denied.denial.message


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: GateContext.of(HERE, {"plain": 1}), UnregisteredPayload),
        (lambda: GateContext.of(HERE, {1}, kind=KIND), CanonicalError),
        (lambda: GateContext.of(HERE, Paid(1), kind=KIND), InvalidInput),
        (lambda: GateContext.of("a@b", 1, kind=KIND), InvalidInput),  # type: ignore[arg-type]  # the refusal is the test
        (lambda: GateContext.of(HERE, 1, kind=5), InvalidInput),  # type: ignore[arg-type]  # the refusal is the test
        (lambda: GateContext(HERE, KIND, "text"), InvalidInput),  # type: ignore[arg-type]  # the refusal is the test
        (lambda: GateContext(HERE, KIND, b"", payload_version=-1), InvalidInput),
        (lambda: GateContext(HERE, KIND, b"", payload_version=True), InvalidInput),
        (lambda: GateContext(HERE, KIND, b"", extensions={"batpak.x": b""}), ExtensionError),
        (lambda: GateContext(HERE, KIND, b"", extensions={"x": b""}), ExtensionError),
    ],
)
def test_a_proposal_that_no_store_would_take_is_refused(make: Any, error: type) -> None:
    with pytest.raises(error):
        make()


@pytest.mark.proves("INV-GATES-JUDGE-THE-BYTES")
def test_a_gate_reads_the_journal_and_can_not_write(tmp_path: Path) -> None:
    with Store.open(tmp_path / "journal") as store:
        receipt = store.append(HERE, Paid(5))
        store.append(HERE, Paid(6))
        told = GateContext.of(HERE, Paid(7), reader=store)
        view = told.view
        assert isinstance(view, ReadView)
        assert view.get(receipt.event_id).payload == Paid(5)
        assert view.at(receipt.sequence).payload == Paid(5)
        assert [event.payload.amount for event in view.entity("account:1")] == [5, 6]
        region = Region(entity="account")
        assert [event.sequence for event in view.query(region)] == [1, 2]
        assert [event.sequence for event in view.query(region, after=1)] == [2]
        latest = view.latest("account:1")
        assert latest is not None
        assert latest.payload == Paid(6)
        assert view.latest("account:2") is None
        assert view.count(region) == 2
        assert (len(view), bool(view)) == (len(store), True)
        public = {name for name in dir(view) if name[0] != "_"}
        assert public == {"get", "at", "entity", "query", "latest", "count"}

        @gate("spent", "an account spends at most 15 in all")
        def spent(context: GateContext) -> Denial | None:
            before = sum(e.payload.amount for e in context.view.entity(HERE.entity))
            if before + context.payload.amount > 15:
                return spent.denial("over the limit", context={"before": before})
            return None

        denied = GateSet([spent]).check(told)
        assert isinstance(denied, Denied)
        assert denied.denial.context == (("before", "11"),)
        assert GateSet([spent]).check(GateContext.of(HERE, Paid(4), reader=store))
    with Store.open(tmp_path / "journal", mode="r") as reader:
        assert GateContext.of(HERE, Paid(7), reader=reader).view.count(region) == 2


def test_a_gate_that_needs_a_journal_denies_without_one() -> None:
    def needs(context: GateContext) -> None:
        context.view.latest("a")

    denied = GateSet([FunctionGate("g", "", needs)]).check(GateContext.of(HERE, Paid(1)))
    assert isinstance(denied, Denied)
    assert denied.denial.code == GATE_DEFECT
    assert isinstance(denied.cause, InvalidInput)


# --- bypassing -----------------------------------------------------------------------


@pytest.mark.proves("INV-BYPASS-AUDITED")
def test_the_audit_of_a_bypass_is_an_extension_that_only_batpak_writes(tmp_path: Path) -> None:
    bypass = Bypass("incident-7", "the gate's service is down", approved_by="carol")
    audit = bypass.extensions()
    assert list(audit) == [BYPASS_EXTENSION]
    assert canonical.decode(audit[BYPASS_EXTENSION]) == {
        "reason": "incident-7",
        "justification": "the gate's service is down",
        "approved_by": "carol",
    }
    assert Bypass.from_extensions(audit) == bypass
    assert Bypass.from_extensions({"acme.trace": b"1"}) is None
    longest = Bypass("r" * 256, "ü" * 2048, "a" * 256)
    assert Bypass.from_extensions(longest.extensions()) == longest
    nobody = Bypass("r", "j")
    assert Bypass.from_extensions(nobody.extensions()) == nobody
    packed = encode_extensions({**audit, "acme.trace": b"1"}, reserved_allowed=True)
    assert canonical.decode(packed)[BYPASS_EXTENSION] == audit[BYPASS_EXTENSION]
    with Store.open(tmp_path / "journal") as store, pytest.raises(ExtensionError) as caught:
        store.append(HERE, Paid(5), extensions=audit)
    assert caught.value.reason == "reserved-namespace"


@pytest.mark.parametrize(
    "fields",
    [
        ("", "j"),
        ("r", ""),
        ("r", "j", ""),
        ("r" * 257, "j"),
        ("r", "j" * 4097),
        ("r", "ü" * 2049),
        ("r", "j", "a" * 257),
        (None, "j"),
        ("r", 5),
        ("r", "j", b"a"),
        ("\ud800", "j"),
    ],
)
def test_a_bypass_says_why(fields: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Bypass(*fields)
    assert caught.value.field in ("reason", "justification", "approved_by")


@pytest.mark.parametrize(
    "plain", [None, [], {}, {"reason": "r"}, {"reason": 1, "justification": 2}]
)
def test_an_audit_that_is_none_is_refused(plain: Any) -> None:
    with pytest.raises(CanonicalError):
        Bypass.from_extensions({BYPASS_EXTENSION: canonical.encode(plain)})
    with pytest.raises(CanonicalError):
        Bypass.from_extensions({BYPASS_EXTENSION: b"\xc1"})
    for no_extensions in (None, 5, b"", [BYPASS_EXTENSION]):
        with pytest.raises(InvalidInput):
            Bypass.from_extensions(no_extensions)  # type: ignore[arg-type]  # the refusal is the test


# --- commits outside a store -----------------------------------------------------------


def test_a_pipeline_commits_what_its_gates_permit() -> None:
    written: list[Any] = []
    pipeline: Pipeline[int] = Pipeline(GateSet([Recording("a")]), "mail")
    passed = pipeline.evaluate(1, "mail")
    assert isinstance(passed, Passed)
    assert pipeline.commit(passed, lambda mail: written.append(mail) or len(written)) == 1
    assert written == ["mail"]
    with pytest.raises(GatePassError) as caught:
        pipeline.commit(passed, written.append)
    assert caught.value.reason == "spent"
    assert pipeline.run(1, "more", str.upper) == "MORE"
    assert written == ["mail"]


def test_a_pipeline_writes_nothing_that_was_denied() -> None:
    written: list[Any] = []
    fault = ValueError("secret")
    pipeline: Pipeline[int] = Pipeline(GateSet([Recording("a", fault)]))
    with pytest.raises(GateDenied) as caught:
        pipeline.run(1, "mail", written.append)
    assert caught.value.__cause__ is fault
    denied = pipeline.evaluate(1, "mail")
    other = Pipeline(GateSet([Recording("a")])).evaluate(1, "mail")
    for no_pass in (denied, other, None):
        with pytest.raises(GatePassError) as refused:
            pipeline.commit(no_pass, written.append)  # type: ignore[arg-type]  # the refusal is the test
        assert refused.value.reason == "other-gates"
    assert written == []
    assert isinstance(other, Passed)
    assert not other.is_spent


def test_a_pass_stays_used_where_the_commit_failed() -> None:
    pipeline: Pipeline[int] = Pipeline(GateSet([]))
    passed = pipeline.evaluate(1, "mail")
    assert isinstance(passed, Passed)

    def fail(mail: str) -> None:
        raise OSError(mail)

    with pytest.raises(OSError, match="mail"):
        pipeline.commit(passed, fail)
    with pytest.raises(GatePassError):
        pipeline.commit(passed, fail)


@pytest.mark.proves("INV-BYPASS-AUDITED")
def test_a_bypass_of_a_pipeline_hands_its_audit_to_the_writer() -> None:
    closed = Recording("a", "deny")
    pipeline: Pipeline[int] = Pipeline(GateSet([closed]))
    bypass = Bypass("r", "j", "carol")
    assert pipeline.bypass(bypass, "mail", lambda mail, audit: (mail, audit)) == ("mail", bypass)
    assert closed.asked == []
    with pytest.raises(InvalidInput, match="field=bypass"):
        pipeline.bypass(None, "mail", lambda mail, audit: mail)  # type: ignore[arg-type]  # the refusal is the test
    with pytest.raises(InvalidInput):
        Pipeline([closed])  # type: ignore[arg-type]  # the refusal is the test
    with pytest.raises(InvalidInput):
        Pipeline(GateSet([]), pipeline_id=5)  # type: ignore[arg-type]  # the refusal is the test
