"""The service's client for the DynamoDB online store: requests in its limits, what is asked again, and what helps where it refuses."""

from __future__ import annotations

import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from serving.online_store.dynamodb_items import ID, Item

__all__ = ["ForeignAnswerError", "Link", "ThrottledError", "cut", "fix_of", "is_missing", "refuses"]

T = TypeVar("T")
R = TypeVar("R")
_KEYS_PER_READ, _KEYS_PER_DELETE = 100, 25
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
"""Seconds, before the second and later tries; each is drawn between 0 and twice the one before."""
_NO_RIGHTS = {
    "AccessDenied": "grant its role that (docs/operations.md#dynamodb lists what it needs)",
    "AccessDeniedException": "grant its role that (docs/operations.md#dynamodb lists what it needs)",
    "ExpiredTokenException": "renew its credentials",
    "IncompleteSignatureException": "correct its credentials",
    "InvalidSignatureException": "correct its credentials, or this machine's clock",
    "KMSAccessDeniedException": "grant its role the key of the table",
    "MissingAuthenticationTokenException": "give credentials by AWS' own chain: environment, profile or role",
    "UnrecognizedClientException": "correct its credentials",
}
_BUSY = (
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "ReplicatedWriteConflictException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "TransactionConflictException",
    "TransactionInProgressException",
)
"""What passes when it is asked again; so does whatever the service answers with a status of 500 and more."""
_TABLE_SECONDS = 300.0
"""How long making or dropping a table may take."""


class ThrottledError(Exception):
    """The service took only a part of what was asked, again and again."""


class ForeignAnswerError(Exception):
    """What answers is not the service."""


class Link:
    """A client, for all threads of one process. Its methods raise botocore's errors, :class:`ThrottledError` and
    :class:`ForeignAnswerError`. ``until`` is the instant (:func:`time.monotonic`) up to which a busy service is asked again, by default
    ``retry_seconds`` from now."""

    def __init__(self, settings: Any) -> None:
        """``settings``: the store's configuration."""
        self.settings = settings
        retries = {"mode": settings.retry_mode or "standard", "total_max_attempts": settings.total_max_retry_attempts or 3}
        self.client: Any = Session().client(
            "dynamodb",
            region_name=settings.region,
            endpoint_url=settings.endpoint_url,
            config=Config(
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                max_pool_connections=settings.max_pool_connections,
                retries=retries,
                parameter_validation=False,  # the service does, and here it takes a third of the time
                user_agent_extra="tandem",
            ),
        )
        self.turns = itertools.count(random.randrange(2**30))  # a client is made anew after a fork, where the generator is seeded anew
        self.errors: Any = self.client.exceptions  # now: botocore makes them at first use, and two threads would have each their own

    def until(self) -> float:
        """When a call that begins now gives up."""
        return time.monotonic() + float(self.settings.retry_seconds)

    def tries(self, until: float | None = None) -> Iterator[None]:
        """One after the other, with longer and longer pauses. Raises ThrottledError when the time is over."""
        until = self.until() if until is None else until
        for n in itertools.count():
            yield
            if not _paused(n, until):
                raise ThrottledError("others write the same at the same time, or more is asked than its capacity allows")

    def ask(self, operation: Callable[..., Any], given: Mapping[str, Any], field: str = "", until: float | None = None) -> Any:
        """What the service answers, which has ``field`` if one is named. Where it is busy or fails, it is asked again; its last error is
        raised."""
        until = self.until() if until is None else until
        for n in itertools.count():
            try:
                answer = operation(**given)
                break
            except ClientError as error:
                if not _is_busy(error) or not _paused(n, until):
                    raise
        if "json" not in answer["ResponseMetadata"]["HTTPHeaders"].get("content-type", "") or (field and field not in answer):
            raise ForeignAnswerError("what answers there is no DynamoDB")
        return answer

    def at_once(self, do: Callable[[T], R], pieces: Sequence[T]) -> Iterable[R]:
        """What ``do`` makes of each, in their order, by as many threads as there are connections."""
        if len(pieces) < 2:
            return [do(piece) for piece in pieces]
        with ThreadPoolExecutor(min(len(pieces), self.settings.max_pool_connections)) as pool:
            try:
                return list(pool.map(do, pieces))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what has not begun yet is not waited for
                raise

    def get(
        self,
        places: Iterable[tuple[str, str]],
        attributes: Sequence[str] = (),
        consistent: bool = True,
        until: float | None = None,
    ) -> dict[tuple[str, str], Item]:
        """The items of these (table, id), those that are there, each read atomically, of ``attributes`` those that it has (none: all). Of a
        table that is not there, there are none."""
        pieces = list(cut(list(dict.fromkeys(places)), _KEYS_PER_READ))
        found: dict[tuple[str, str], Item] = {}
        until = self.until() if until is None else until  # one for all pieces
        for part in self.at_once(partial(self._get, attributes=attributes, consistent=consistent, until=until), pieces):
            found.update(part)
        return found

    def _get(
        self, places: Sequence[tuple[str, str]], attributes: Sequence[str], consistent: bool, until: float
    ) -> dict[tuple[str, str], Item]:
        shape: dict[str, Any] = {"ConsistentRead": consistent}
        if attributes:
            names = {f"#{n}": name for n, name in enumerate(dict.fromkeys([ID, *attributes]))}
            shape |= {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
        asked = {
            table: {"Keys": [{ID: {"S": i}} for _, i in some], **shape}
            for table, some in itertools.groupby(sorted(places), key=lambda place: place[0])
        }
        found: dict[tuple[str, str], Item] = {}
        try:
            for _ in self.tries(until):
                answer = self.ask(self.client.batch_get_item, {"RequestItems": asked}, "Responses", until)
                found.update({(table, item[ID]["S"]): item for table, items in answer["Responses"].items() for item in items})
                asked = answer.get("UnprocessedKeys")
                if not asked:
                    break
        except self.errors.ResourceNotFoundException:
            tables = {table for table, _ in places}
            if len(tables) == 1:
                return {}
            for table in tables:
                found |= self._get([place for place in places if place[0] == table], attributes, consistent, until)
        return found

    def scan(self, table: str, attributes: Sequence[str], condition: str) -> Iterator[list[Item]]:
        """The items of a table for which ``condition`` holds, by pages. Of a table that is not there, there are none."""
        given: dict[str, Any] = {"TableName": table, "ConsistentRead": True, "FilterExpression": condition}
        given["ProjectionExpression"] = ", ".join(attributes)
        try:
            while True:
                page = self.ask(self.client.scan, given, "Items")
                yield page["Items"]
                if not (last := page.get("LastEvaluatedKey")):
                    return
                given["ExclusiveStartKey"] = last
        except self.errors.ResourceNotFoundException:
            return

    def put(self, table: str, item: Item, condition: Mapping[str, Any], until: float | None = None) -> None:
        """Put one item; a transaction that has it at this moment is waited for."""
        self.ask(self.client.put_item, {"TableName": table, "Item": item, **condition}, until=until)

    def transact(self, actions: Sequence[Mapping[str, Any]], until: float | None = None) -> bool:
        """Whether all of them were done, in one step: else a condition did not hold, or others have the same items at this moment, or a
        table has no capacity left, and none was. What has to be corrected is an error."""
        # By its token the service knows what it is asked again, and does it once.
        given = {"TransactItems": actions, "ClientRequestToken": str(uuid.uuid4())}
        try:
            self.ask(self.client.transact_write_items, given, until=until)
            return True
        except self.errors.TransactionCanceledException as error:
            for reason in error.response.get("CancellationReasons", []):
                if reason.get("Code") in ("ValidationError", "AccessDenied"):
                    raise ClientError({"Error": reason}, "TransactWriteItems") from error  # which says more than that it was cancelled
            return False

    def delete(self, table: str, ids: Iterable[str]) -> None:
        """Delete items, of those that are there."""

        def drop(some: Sequence[str]) -> None:
            asked = {table: [{"DeleteRequest": {"Key": {ID: {"S": i}}}} for i in some]}
            until = self.until()
            for _ in self.tries(until):
                asked = self.ask(self.client.batch_write_item, {"RequestItems": asked}, until=until).get("UnprocessedItems")
                if not asked:
                    return

        try:
            self.at_once(drop, list(cut(list(dict.fromkeys(ids)), _KEYS_PER_DELETE)))
        except self.errors.ResourceNotFoundException:
            return

    def make(self, table: str, tags: Mapping[str, str] | None) -> None:
        """Make a table, as Feast does, where it is not there; returns when it can be used."""
        given = {
            "TableName": table,
            "KeySchema": [{"AttributeName": ID, "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": ID, "AttributeType": "S"}],
            "BillingMode": "PAY_PER_REQUEST",
            **({"Tags": [{"Key": k, "Value": v} for k, v in tags.items()]} if tags else {}),
        }
        for _ in range(2):
            try:
                self.ask(self.client.create_table, given)
            except self.errors.ResourceInUseException:
                if self.status(table) == "DELETING":
                    self._await(table, None)
                    continue
            break
        self._await(table, "ACTIVE")

    def drop(self, table: str) -> None:
        """Take a table away, if it is there."""
        try:
            self.ask(self.client.delete_table, {"TableName": table})
        except self.errors.ResourceNotFoundException:
            return
        self._await(table, None)

    def status(self, table: str) -> str | None:
        """As the service has it, such as ACTIVE; None where there is no such table."""
        try:
            return str(self.ask(self.client.describe_table, {"TableName": table}, "Table")["Table"]["TableStatus"])
        except self.errors.ResourceNotFoundException:
            return None

    def _await(self, table: str, status: str | None) -> None:
        until = time.monotonic() + _TABLE_SECONDS
        while (found := self.status(table)) != status:
            if time.monotonic() > until:
                raise ThrottledError(f"table {table} is {found or 'not there'} and not {status or 'gone'} after {_TABLE_SECONDS:.0f} s")
            time.sleep(_LONGEST_PAUSE)


def cut(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Pieces of at most so many."""
    return (whole[start : start + size] for start in range(0, len(whole), size))


def _paused(n: int, until: float) -> bool:
    """Wait before try ``n + 2``; False: the time is over."""
    left = until - time.monotonic()
    if left > 0:
        time.sleep(min(left, random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(n, 10)))))
    return left > 0


def _fails(error: ClientError) -> bool:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500


def _is_busy(error: ClientError) -> bool:
    """Whether the same request may be answered a moment later."""
    return error.response["Error"]["Code"] in _BUSY or _fails(error)


def is_missing(error: Exception) -> bool:
    """Whether a table is not there."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] == "ResourceNotFoundException"


def refuses(error: Exception) -> bool:
    """Whether the service is there, and does not let its user in or do that."""
    if isinstance(error, ClientError):
        return error.response["Error"]["Code"] in _NO_RIGHTS
    return isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound))


def fix_of(error: Exception) -> str:
    """What helps."""
    if isinstance(error, ThrottledError):
        return "raise its capacity, or retry_seconds in feature_store.yaml"
    if isinstance(error, ForeignAnswerError):
        return "correct endpoint_url in feature_store.yaml"
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code in _NO_RIGHTS:
            return _NO_RIGHTS[code]
        if code in _BUSY:
            return "raise the capacity of its tables, or retry_seconds in feature_store.yaml, or write less at once"
        if _fails(error):
            return "it fails at the moment: look at its state, or raise retry_seconds in feature_store.yaml"
        if is_missing(error):
            return "run 'tandem apply', which makes the tables of a view"
        if "item size" in str(error).lower():
            return "a row with its features is larger than the 400 KB that an item may have: keep fewer features in the view"
        return "see what it says"
    if refuses(error):
        return "give credentials by AWS' own chain: environment, profile or role"
    if isinstance(error, BotoCoreError):
        return "look whether this machine reaches it, or fix region and endpoint_url in feature_store.yaml"
    return "see what it says"
