"""The service's client for the DynamoDB online store: requests in its limits, what is asked again, and what helps where it refuses."""

from __future__ import annotations

import itertools
import random
import time
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

__all__ = ["Link", "ThrottledError", "cut", "fix_of", "is_missing", "refuses"]

T = TypeVar("T")
R = TypeVar("R")
_KEYS_PER_READ, _KEYS_PER_DELETE = 100, 25
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0
"""Seconds, before the second and later tries; each is drawn between 0 and twice the one before."""
_NO_RIGHTS = {
    "AccessDeniedException": "grant its role that (docs/operations.md#dynamodb lists what it needs)",
    "ExpiredTokenException": "renew its credentials",
    "IncompleteSignatureException": "correct its credentials",
    "InvalidSignatureException": "correct its credentials, or this machine's clock",
    "KMSAccessDeniedException": "grant its role the key of the table",
    "MissingAuthenticationTokenException": "give credentials by AWS' own chain: environment, profile or role",
    "UnrecognizedClientException": "correct its credentials",
}
_BUSY = ("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "LimitExceededException")


class ThrottledError(Exception):
    """The service took only a part of what was asked, again and again."""


class Link:
    """A client, for all threads of one process. Its methods raise botocore's errors and :class:`ThrottledError`."""

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
        self.errors: Any = self.client.exceptions  # now: botocore makes them at first use, and two threads would have each their own

    def tries(self) -> Iterator[None]:
        """One after the other, with longer and longer pauses, until ``retry_seconds`` are over. Raises ThrottledError then."""
        until = time.monotonic() + self.settings.retry_seconds
        for n in itertools.count():
            yield
            if time.monotonic() >= until:
                raise ThrottledError("others write the same at the same time, or more is asked than its capacity allows")
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**n)))

    def at_once(self, do: Callable[[T], R], pieces: Sequence[T]) -> Iterable[R]:
        """What ``do`` makes of each, in their order, by as many threads as there are connections."""
        if len(pieces) < 2:
            return [do(piece) for piece in pieces]
        with ThreadPoolExecutor(min(len(pieces), self.settings.max_pool_connections)) as pool:
            return list(pool.map(do, pieces))

    def get(
        self, places: Iterable[tuple[str, str]], attributes: Sequence[str] = (), consistent: bool = True
    ) -> dict[tuple[str, str], Item]:
        """The items of these (table, id), those that are there, each read atomically, of ``attributes`` those that it has (none: all). Of a
        table that is not there, there are none."""
        pieces = list(cut(list(dict.fromkeys(places)), _KEYS_PER_READ))
        found: dict[tuple[str, str], Item] = {}
        for part in self.at_once(partial(self._get, attributes=attributes, consistent=consistent), pieces):
            found.update(part)
        return found

    def _get(self, places: Sequence[tuple[str, str]], attributes: Sequence[str], consistent: bool) -> dict[tuple[str, str], Item]:
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
            for _ in self.tries():
                answer = self.client.batch_get_item(RequestItems=asked)
                found.update({(table, item[ID]["S"]): item for table, items in answer["Responses"].items() for item in items})
                asked = answer.get("UnprocessedKeys")
                if not asked:
                    break
        except self.errors.ResourceNotFoundException:
            tables = {table for table, _ in places}
            if len(tables) == 1:
                return {}
            for table in tables:
                found |= self._get([place for place in places if place[0] == table], attributes, consistent)
        return found

    def scan(self, table: str, attributes: Sequence[str], condition: str) -> Iterator[list[Item]]:
        """The items of a table for which ``condition`` holds, by pages. Of a table that is not there, there are none."""
        given: dict[str, Any] = {"TableName": table, "ConsistentRead": True, "FilterExpression": condition}
        given["ProjectionExpression"] = ", ".join(attributes)
        try:
            for page in self.client.get_paginator("scan").paginate(**given):
                yield page["Items"]
        except self.errors.ResourceNotFoundException:
            return

    def put(self, table: str, item: Item, condition: Mapping[str, Any]) -> None:
        """Put one item; a transaction that has it at this moment is waited for."""
        for _ in self.tries():
            try:
                self.client.put_item(TableName=table, Item=item, **condition)
                return
            except self.errors.TransactionConflictException:
                continue

    def transact(self, actions: Sequence[Mapping[str, Any]]) -> bool:
        """Whether all of them were done, in one step: else a condition did not hold, or others have the same items at this moment, or a
        table has no capacity left, and none was. What has to be corrected is an error."""
        try:
            self.client.transact_write_items(TransactItems=actions)
            return True
        except self.errors.TransactionCanceledException as error:
            if {reason.get("Code") for reason in error.response.get("CancellationReasons", [])} & {"ValidationError", "AccessDenied"}:
                raise
            return False
        except self.errors.TransactionInProgressException:  # asked twice, as the first answer was lost
            return False

    def delete(self, table: str, ids: Iterable[str]) -> None:
        """Delete items, of those that are there."""

        def drop(some: Sequence[str]) -> None:
            asked = {table: [{"DeleteRequest": {"Key": {ID: {"S": i}}}} for i in some]}
            for _ in self.tries():
                asked = self.client.batch_write_item(RequestItems=asked).get("UnprocessedItems")
                if not asked:
                    return

        try:
            self.at_once(drop, list(cut(list(dict.fromkeys(ids)), _KEYS_PER_DELETE)))
        except self.errors.ResourceNotFoundException:
            return

    def make(self, table: str, tags: Mapping[str, str] | None) -> None:
        """Make a table, as Feast does, where it is not there; returns when it can be used."""
        given = {"Tags": [{"Key": k, "Value": v} for k, v in tags.items()]} if tags else {}
        waits = {"Delay": 2, "MaxAttempts": 150}
        for _ in range(2):
            try:
                self.client.create_table(
                    TableName=table,
                    KeySchema=[{"AttributeName": ID, "KeyType": "HASH"}],
                    AttributeDefinitions=[{"AttributeName": ID, "AttributeType": "S"}],
                    BillingMode="PAY_PER_REQUEST",
                    **given,
                )
            except self.errors.ResourceInUseException:
                if self.status(table) == "DELETING":
                    self.client.get_waiter("table_not_exists").wait(TableName=table, WaiterConfig=waits)
                    continue
            break
        self.client.get_waiter("table_exists").wait(TableName=table, WaiterConfig=waits)

    def drop(self, table: str) -> None:
        """Take a table away, if it is there."""
        try:
            self.client.delete_table(TableName=table)
        except self.errors.ResourceNotFoundException:
            return
        self.client.get_waiter("table_not_exists").wait(TableName=table, WaiterConfig={"Delay": 2, "MaxAttempts": 150})

    def status(self, table: str) -> str | None:
        """As the service has it, such as ACTIVE; None where there is no such table."""
        try:
            return str(self.client.describe_table(TableName=table)["Table"]["TableStatus"])
        except self.errors.ResourceNotFoundException:
            return None


def cut(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Pieces of at most so many."""
    return (whole[start : start + size] for start in range(0, len(whole), size))


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
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code in _NO_RIGHTS:
            return _NO_RIGHTS[code]
        if code in _BUSY:
            return "raise the capacity of its tables, or write less at once"
        if is_missing(error):
            return "run 'tandem apply', which makes the tables of a view"
        if "size" in str(error).lower():
            return "a row with its features is larger than the 400 KB that an item may have: keep fewer features in the view"
        return "see what it says"
    if refuses(error):
        return "give credentials by AWS' own chain: environment, profile or role"
    if isinstance(error, BotoCoreError):
        return "look whether this machine reaches it, or fix region and endpoint_url in feature_store.yaml"
    return "see what it says"
