"""Conformance of a RethinkDB server, seen through the Python driver.

    python conformance.py HOST:PORT

Runs against any server: the real one, or the stand-in. Every expectation below was met by RethinkDB 2.4.4. Uses one
database of its own, which it drops at the end. Prints one line for each check; exits with 1 if any failed.
"""

import queue
import socket
import struct
import sys
import threading
import time
import traceback
import uuid

from rethinkdb import r
from rethinkdb.errors import (
    ReqlAuthError,
    ReqlDriverError,
    ReqlNonExistenceError,
    ReqlOpFailedError,
    ReqlQueryLogicError,
    ReqlServerCompileError,
    ReqlTimeoutError,
    ReqlUserError,
)

HOST, PORT = sys.argv[1].rsplit(":", 1)
HOST, PORT = HOST.strip("[]"), int(PORT)
DB = "conformance_" + uuid.uuid4().hex
DEADLINE = 30
SYSTEM = r.db("rethinkdb")
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def connect(**options):
    return r.connect(host=HOST, port=PORT, timeout=DEADLINE, **options)


def same(found, expected):
    assert found == expected, f"\n  found    {found!r}\n  expected {expected!r}"


def refused(kind, message, query, conn, frames=None):
    """The query fails with this class, this text and, if given, this place."""
    try:
        found = query.run(conn)
    except kind as why:
        assert message in why.message, f"\n  found    {why.message!r}\n  expected {message!r}"
        if frames is not None:
            same(why.frames, frames)
        return
    raise AssertionError(f"{query} gave {found!r}, expected {kind.__name__}")


def counts(**some):
    return {"deleted": 0, "errors": 0, "inserted": 0, "replaced": 0, "skipped": 0, "unchanged": 0, **some}


def fresh(conn, **options):
    """A new, ready table."""
    name = "t_" + uuid.uuid4().hex
    same(r.db(DB).table_create(name, **options).run(conn)["tables_created"], 1)
    table = r.db(DB).table(name)
    table.wait().run(conn)
    return table


class Feed:
    """A change feed read by a thread of its own, so that every wait has a deadline."""

    def __init__(self, query):
        self.conn = connect()
        self.cursor = query.run(self.conn)
        self.items = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for item in self.cursor:
                self.items.put(item)
            self.items.put("over")
        except Exception as why:  # pylint: disable=broad-except
            self.items.put(why)

    def next(self):
        return self.items.get(timeout=DEADLINE)

    def take(self, count):
        return [self.next() for _ in range(count)]


# --- getting in ---


@check
def handshake(_):
    with socket.create_connection((HOST, PORT), DEADLINE) as stream:
        stream.sendall(struct.pack("<I", 0x12345678))
        answer = stream.recv(4096)
        assert answer.startswith(b"ERROR: Received an unsupported protocol version."), answer


@check
def wrong_password(_):
    try:
        connect(password="certainly wrong")
    except (ReqlAuthError, ReqlDriverError) as why:
        assert "Wrong password" in str(why), why
    else:
        raise AssertionError("let in")


@check
def unknown_user(_):
    try:
        connect(user="nobody")
    except (ReqlAuthError, ReqlDriverError) as why:
        assert "Unknown user" in str(why), why
    else:
        raise AssertionError("let in")


@check
def server_info(conn):
    info = conn.server()
    same(sorted(info), ["id", "name", "proxy"])
    same(info["proxy"], False)
    names = [row["name"] for row in SYSTEM.table("server_status").run(conn)]
    assert info["name"] in names, (info, names)


@check
def noreply_wait(conn):
    table = fresh(conn)
    for number in range(50):
        table.insert({"id": number}).run(conn, noreply=True)
    conn.noreply_wait()
    same(table.count().run(conn), 50)


# --- plain data ---


@check
def data_comes_back(conn):
    for value in [None, True, 0, -1, 2.5, 1e300, "", "äöü ✓ \u0001", [], [1, [2]], {}, {"a": {"b": [None]}}]:
        same(r.expr(value).run(conn), value)
    same(r.expr([1, r.expr(2).add(1), {"a": r.expr(1).eq(1)}]).run(conn), [1, 3, {"a": True}])


@check
def comparison(conn):
    same(r.expr(1).lt(2).run(conn), True)
    same(r.expr([1, 2]).lt([1, 3]).run(conn), True)
    same(r.expr("b").gt("a").run(conn), True)
    same(r.expr(1).eq(1.0).run(conn), True)
    same(r.eq(1, 1, 2).run(conn), False)
    same(r.expr(3).ge(3).run(conn), True)
    same(r.expr({"a": 1}).ne({"a": 2}).run(conn), True)
    # By the names of the types: arrays, booleans, null, numbers, objects, texts.
    kinds = [[], True, None, 1, {}, "a"]
    for lower, upper in zip(kinds, kinds[1:]):
        same(r.expr(lower).lt(upper).run(conn), True)


@check
def logic(conn):
    same(r.and_(True, 1, "x").run(conn), "x")
    same(r.and_(None, r.error("not reached")).run(conn), None)
    same(r.or_(False, None).run(conn), None)
    same(r.or_(1, r.error("not reached")).run(conn), 1)
    same(r.not_(None).run(conn), True)
    same(r.not_(0).run(conn), False)
    same(r.branch(False, 1, 2).run(conn), 2)
    same(r.branch(False, 1, 0, "zero is true", 3).run(conn), "zero is true")


@check
def arithmetic(conn):
    same(r.expr(1).add(2, 3).run(conn), 6)
    same(r.expr("a").add("b").run(conn), "ab")
    same(r.expr([1]).add([2]).run(conn), [1, 2])
    same(r.expr(7).div(2).run(conn), 3.5)
    same(r.expr(7).mod(4).run(conn), 3)
    refused(ReqlQueryLogicError, "Cannot divide by zero.", r.expr(1).div(0), conn)
    refused(ReqlQueryLogicError, "Expected type NUMBER but found STRING.", r.expr(1).add("a"), conn, [])
    refused(ReqlQueryLogicError, "Expected type STRING but found NUMBER.", r.expr("a").add(1), conn)


@check
def objects(conn):
    row = r.expr({"a": 1, "b": {"c": 2, "d": 3}})
    same(row["a"].run(conn), 1)
    same(row["b"]["c"].run(conn), 2)
    same(row.pluck("a", {"b": "d"}).run(conn), {"a": 1, "b": {"d": 3}})
    same(row.without("a", {"b": {"c": True}}).run(conn), {"b": {"d": 3}})
    same(row.merge({"b": {"c": 9}}).run(conn), {"a": 1, "b": {"c": 9, "d": 3}})
    same(row.merge({"b": r.literal({"e": 1})}).run(conn), {"a": 1, "b": {"e": 1}})
    same(row.merge({"b": r.literal()}).run(conn), {"a": 1})
    same(row.has_fields("a").run(conn), True)
    same(row.has_fields({"b": "x"}).run(conn), False)
    same(row.keys().run(conn), ["a", "b"])
    same(row["x"].default(5).run(conn), 5)
    same(r.expr(None).default(5).run(conn), 5)
    refused(ReqlNonExistenceError, "No attribute `x` in object:\n{\n\t\"a\":\t1\n}", r.expr({"a": 1})["x"], conn, [])
    refused(
        ReqlNonExistenceError, "Cannot perform bracket on a non-object non-sequence `null`.", r.expr(None)["x"], conn, [0]
    )


@check
def lists(conn):
    items = r.expr([3, 1, 2])
    same(items.count().run(conn), 3)
    same(items[0].run(conn), 3)
    same(items[-1].run(conn), 2)
    same(items.append(4).run(conn), [3, 1, 2, 4])
    same(items.contains(2).run(conn), True)
    same(items.contains(lambda x: x.gt(5)).run(conn), False)
    same(items.filter(lambda x: x.gt(1)).run(conn), [3, 2])
    same(items.map(lambda x: x.mul(2)).run(conn), [6, 2, 4])
    same(items.limit(2).run(conn), [3, 1])
    same(items.skip(1).run(conn), [1, 2])
    same(items.is_empty().run(conn), False)
    same(r.expr([2, 1, 2]).distinct().run(conn), [1, 2])
    same(r.expr([{"n": 2}, {"n": 1}]).order_by("n").run(conn), [{"n": 1}, {"n": 2}])
    same(r.expr([{"n": 1}, {"m": 1}])["n"].run(conn), [1])
    refused(ReqlNonExistenceError, "Index out of bounds: 9", items[9], conn)


@check
def functions(conn):
    same(r.do(1, 2, lambda a, b: a.add(b)).run(conn), 3)
    same(r.expr(5).do(lambda x: r.expr([x, x])).run(conn), [5, 5])
    refused(
        ReqlQueryLogicError,
        "Expected function with 1 argument but found function with 2 arguments.",
        r.do(1, lambda a, b: a),
        conn,
    )


@check
def time_and_ids(conn):
    now = r.now().run(conn, time_format="raw")
    same(sorted(now), ["$reql_type$", "epoch_time", "timezone"])
    assert abs(now["epoch_time"] - time.time()) < 300, now
    same(r.now().eq(r.now()).run(conn), True)
    same(r.epoch_time(1.5).run(conn, time_format="raw")["epoch_time"], 1.5)
    same(r.epoch_time(5).to_epoch_time().run(conn), 5)
    same(r.now().type_of().run(conn), "PTYPE<TIME>")
    same(str(uuid.UUID(r.uuid().run(conn))).count("-"), 4)


@check
def types(conn):
    for value, name in [(1, "NUMBER"), ("", "STRING"), (None, "NULL"), ([], "ARRAY"), ({}, "OBJECT"), (True, "BOOL")]:
        same(r.expr(value).type_of().run(conn), name)
    table = fresh(conn)
    same(r.db(DB).type_of().run(conn), "DB")
    same(table.type_of().run(conn), "TABLE")
    same(table.filter({}).type_of().run(conn), "SELECTION<STREAM>")
    same(table.get(1).type_of().run(conn), "SELECTION<OBJECT>")
    same(table.order_by("n").type_of().run(conn), "SELECTION<ARRAY>")
    same(table.pluck("n").type_of().run(conn), "STREAM")


@check
def errors(conn):
    refused(ReqlUserError, "boom", r.error("boom"), conn, [])
    refused(ReqlUserError, "boom", r.expr([1, {"a": r.error("boom")}]), conn, [1, "a"])
    refused(ReqlQueryLogicError, "Query result must be of type DATUM, GROUPED_DATA, or STREAM (got DATABASE).", r.db(DB), conn)


@check
def compile_errors(conn):
    table = r.db(DB).table("t")
    refused(ReqlServerCompileError, "Unrecognized optional argument `bogus`.", table.insert({}, bogus=1), conn)
    refused(ReqlServerCompileError, "Expected 2 or more arguments but found 1.", r.eq(1), conn)


# --- databases and tables ---


@check
def databases(conn):
    name = "other_" + uuid.uuid4().hex
    made = r.db_create(name).run(conn)
    same(made["dbs_created"], 1)
    change = made["config_changes"][0]
    same((change["old_val"], change["new_val"]["name"], sorted(change["new_val"])), (None, name, ["id", "name"]))
    assert name in r.db_list().run(conn)
    assert "rethinkdb" in r.db_list().run(conn)
    same(r.db(name).config().run(conn), change["new_val"])
    same(r.db(name).info().run(conn), {**change["new_val"], "type": "DB"})
    refused(ReqlOpFailedError, f"Database `{name}` already exists.", r.db_create(name), conn, [])
    refused(ReqlOpFailedError, "Database `rethinkdb` already exists.", r.db_create("rethinkdb"), conn, [])
    refused(
        ReqlQueryLogicError, "Database name `a.b` invalid (Use A-Z, a-z, 0-9, _ and - only).", r.db_create("a.b"), conn, [0]
    )
    r.db(name).table_create("t").run(conn)
    same(r.db(name).table_list().run(conn), ["t"])
    gone = r.db_drop(name).run(conn)
    same((gone["dbs_dropped"], gone["tables_dropped"]), (1, 1))
    same(gone["config_changes"], [{"old_val": change["new_val"], "new_val": None}])
    refused(ReqlOpFailedError, f"Database `{name}` does not exist.", r.db_drop(name), conn, [])
    refused(ReqlOpFailedError, f"Database `{name}` does not exist.", r.db(name).table("t"), conn, [0])


@check
def default_database(conn):
    table = fresh(conn)
    name = table.config()["name"].run(conn)
    other = connect(db=DB)
    same(r.table(name).count().run(other), 0)
    assert name in r.table_list().run(other)
    other.close()


@check
def tables(conn):
    name = "made_" + uuid.uuid4().hex
    made = r.db(DB).table_create(name, primary_key="key", durability="soft").run(conn)
    same(made["tables_created"], 1)
    change = made["config_changes"][0]
    same(change["old_val"], None)
    config = change["new_val"]
    shard = config["shards"][0]
    same(
        config,
        {
            "id": config["id"],
            "db": DB,
            "name": name,
            "primary_key": "key",
            "durability": "soft",
            "write_acks": "majority",
            "indexes": [],
            "write_hook": None,
            "shards": [
                {"primary_replica": shard["primary_replica"], "replicas": shard["replicas"], "nonvoting_replicas": []}
            ],
        },
    )
    same(shard["replicas"], [shard["primary_replica"]])
    table = r.db(DB).table(name)
    same(table.config().run(conn), config)
    same(table.wait().run(conn), {"ready": 1})
    status = table.status().run(conn)
    same(
        status,
        {
            "id": config["id"],
            "db": DB,
            "name": name,
            "raft_leader": status["raft_leader"],
            "shards": [
                {
                    "primary_replicas": shard["replicas"],
                    "replicas": [{"server": shard["primary_replica"], "state": "ready"}],
                }
            ],
            "status": {
                "all_replicas_ready": True,
                "ready_for_outdated_reads": True,
                "ready_for_reads": True,
                "ready_for_writes": True,
            },
        },
    )
    info = table.info().run(conn)
    same((info["type"], info["primary_key"], info["name"], info["db"]["name"]), ("TABLE", "key", name, DB))
    refused(ReqlOpFailedError, f"Table `{DB}.{name}` already exists.", r.db(DB).table_create(name), conn, [])
    same(r.db(DB).table_drop(name).run(conn), {"tables_dropped": 1, "config_changes": [{"old_val": config, "new_val": None}]})
    refused(ReqlOpFailedError, f"Table `{DB}.{name}` does not exist.", r.db(DB).table_drop(name), conn, [])
    refused(ReqlOpFailedError, f"Table `{DB}.{name}` does not exist.", table, conn, [])
    refused(ReqlQueryLogicError, "Table name `a.b` invalid", r.db(DB).table_create("a.b"), conn)


@check
def replicas_that_cannot_be(conn):
    servers = SYSTEM.table("server_status").count().run(conn)
    many = servers + 1
    refused(
        ReqlOpFailedError,
        f"Can't put {many} replicas on servers with the tag `default` because there are only {servers} servers with "
        "the tag `default`. It's impossible to have more replicas of the data than there are servers.",
        r.db(DB).table_create("never", replicas=many),
        conn,
        [],
    )
    refused(
        ReqlQueryLogicError,
        "`primary_replica_tag` must be specified when `replicas` is an OBJECT.",
        r.db(DB).table_create("never", replicas={"default": 1}),
        conn,
        ["replicas"],
    )
    refused(
        ReqlOpFailedError,
        "Could not find any servers with server tag `nowhere`.",
        r.db(DB).table_create("never", replicas={"nowhere": 1}, primary_replica_tag="nowhere"),
        conn,
        [],
    )
    refused(
        ReqlOpFailedError,
        "Can't use server tag `other` for primary replicas because you specified no replicas in server tag `other`.",
        r.db(DB).table_create("never", replicas={"default": 1}, primary_replica_tag="other"),
        conn,
    )
    refused(
        ReqlQueryLogicError,
        "Every table must have at least one shard.",
        r.db(DB).table_create("never", shards=0),
        conn,
        ["shards"],
    )
    assert "never" not in r.db(DB).table_list().run(conn)


@check
def reconfiguration(conn):
    table = fresh(conn)
    before = table.config().run(conn)
    dry = table.reconfigure(shards=1, replicas=1, dry_run=True).run(conn)
    same(sorted(dry), ["config_changes", "reconfigured"])
    same(dry["reconfigured"], 0)
    done = table.reconfigure(shards=1, replicas={"default": 1}, primary_replica_tag="default").run(conn)
    same(sorted(done), ["config_changes", "reconfigured", "status_changes"])
    same(done["reconfigured"], 1)
    same(done["config_changes"][0]["old_val"], before)
    same(sorted(done["status_changes"][0]), ["new_val", "old_val"])
    same(sorted(done["status_changes"][0]["new_val"]), ["db", "id", "name", "raft_leader", "shards", "status"])
    same(table.wait(wait_for="all_replicas_ready", timeout=DEADLINE).run(conn), {"ready": 1})
    refused(ReqlQueryLogicError, "Missing required argument `shards`.", table.reconfigure(replicas=1), conn)
    refused(ReqlQueryLogicError, "Missing required argument `replicas`.", table.reconfigure(shards=1), conn)
    refused(
        ReqlOpFailedError, "It's impossible to have more replicas", table.reconfigure(shards=1, replicas=99), conn, []
    )


@check
def waiting(conn):
    table = fresh(conn)
    same(table.wait(wait_for="ready_for_writes", timeout=5).run(conn), {"ready": 1})
    refused(ReqlQueryLogicError, "Unknown table readiness state: 'x'", table.wait(wait_for="x"), conn)
    count = len(r.db(DB).table_list().run(conn))
    same(r.db(DB).wait().run(conn), {"ready": count})


# --- reading and writing ---


@check
def inserting(conn):
    table = fresh(conn)
    same(table.insert({"id": "a", "n": 1}).run(conn), counts(inserted=1))
    duplicate = 'Duplicate primary key `id`:\n{\n\t"id":\t"a",\n\t"n":\t1\n}\n{\n\t"id":\t"a",\n\t"n":\t2\n}'
    same(table.insert({"id": "a", "n": 2}).run(conn), counts(errors=1, first_error=duplicate))
    made = table.insert({"n": 1}).run(conn)
    key = made["generated_keys"][0]
    same(made, counts(inserted=1, generated_keys=[key]))
    same(table.get(key).run(conn), {"id": key, "n": 1})
    same(
        table.insert([{"id": "a", "n": 2}, {"id": "b"}], return_changes=True).run(conn),
        counts(errors=1, inserted=1, first_error=duplicate, changes=[{"old_val": None, "new_val": {"id": "b"}}]),
    )
    same(
        table.insert({"id": "a", "n": 2}, return_changes="always").run(conn)["changes"],
        [{"error": duplicate, "old_val": {"id": "a", "n": 1}, "new_val": {"id": "a", "n": 1}}],
    )
    same(table.insert([]).run(conn), counts())
    same(table.insert({"id": "s"}, durability="soft").run(conn), counts(inserted=1))
    refused(ReqlQueryLogicError, "Cannot convert NUMBER to SEQUENCE", table.insert(3), conn, [])


@check
def conflicts(conn):
    table = fresh(conn)
    table.insert({"id": 1, "n": 1, "old": True}).run(conn)
    same(table.insert({"id": 1, "n": 2}, conflict="update").run(conn), counts(replaced=1))
    same(table.get(1).run(conn), {"id": 1, "n": 2, "old": True})
    same(table.insert({"id": 1, "n": 2}, conflict="update").run(conn), counts(unchanged=1))
    same(table.insert({"id": 1, "n": 3}, conflict="replace").run(conn), counts(replaced=1))
    same(table.get(1).run(conn), {"id": 1, "n": 3})
    add = lambda key, old, new: old.merge({"n": old["n"].add(new["n"])})
    same(table.insert({"id": 1, "n": 4}, conflict=add).run(conn), counts(replaced=1))
    same(table.get(1)["n"].run(conn), 7)
    refuse = lambda key, old, new: r.error("no")
    same(table.insert({"id": 1}, conflict=refuse).run(conn), counts(errors=1, first_error="no"))


@check
def keys(conn):
    table = fresh(conn)
    kinds = [1, 1.5, "1", True, [1, "a"]]
    same(table.insert([{"id": key} for key in kinds]).run(conn), counts(inserted=len(kinds)))
    for key in kinds:
        same(table.get(key).run(conn), {"id": key})
    text = "Primary keys must be either a number, string, bool, pseudotype or array (got type NULL):\nnull"
    same(table.insert({"id": None}).run(conn), counts(errors=1, first_error=text))
    refused(ReqlNonExistenceError, text, table.get(None), conn, [])
    long = table.insert({"id": "x" * 200}).run(conn)
    assert long["first_error"].startswith("Primary key too long (max 127 characters): "), long


@check
def reading(conn):
    table = fresh(conn)
    rows = [{"id": number, "n": number % 3} for number in range(10)]
    table.insert(rows).run(conn)
    same(table.get(3).run(conn), {"id": 3, "n": 0})
    same(table.get(99).run(conn), None)
    refused(ReqlNonExistenceError, "non-sequence `null`", table.get(99)["n"], conn, [0])
    same(table.get(99)["n"].default("none").run(conn), "none")
    same(table.count().run(conn), 10)
    same(sorted(row["id"] for row in table.run(conn)), list(range(10)))
    same(sorted(row["id"] for row in table.get_all(1, 2, 77).run(conn)), [1, 2])
    same(table.filter({"n": 1}).count().run(conn), 3)
    same(table.filter(r.row["n"].gt(0).and_(r.row["id"].lt(5))).count().run(conn), 3)
    same(table.filter(lambda row: row["n"].eq(0).or_(row["id"].eq(1)).not_()).count().run(conn), 5)
    same(table.filter(lambda row: row["absent"].eq(1)).count().run(conn), 0)
    same(table.filter(lambda row: row["absent"].eq(1), default=True).count().run(conn), 10)
    refused(
        ReqlNonExistenceError, "No attribute `absent`", table.filter(lambda row: row["absent"].eq(1), default=r.error()), conn
    )
    ordered = table.order_by(r.desc("n"), "id").limit(4).pluck("id").run(conn)
    same([row["id"] for row in ordered], [2, 5, 8, 1])
    same([row["id"] for row in table.order_by(index="id").limit(3).run(conn)], [0, 1, 2])
    same(table.order_by("id")["id"].run(conn), list(range(10)))
    same(list(table.filter({"n": 1}).map(lambda row: row["id"]).order_by(lambda x: x).run(conn)), [1, 4, 7])
    same(table.order_by("id").nth(2).run(conn), {"id": 2, "n": 2})
    same(table.is_empty().run(conn), False)
    same(table.get_all(5).coerce_to("array").run(conn), [{"id": 5, "n": 2}])


@check
def missing_fields_come_first(conn):
    table = fresh(conn)
    table.insert([{"id": 1, "n": 5}, {"id": 2}, {"id": 3, "n": "a"}, {"id": 4, "n": None}]).run(conn)
    same([row["id"] for row in table.order_by("n").run(conn)], [2, 4, 1, 3])
    same([row["id"] for row in table.order_by(r.desc("n")).run(conn)], [3, 1, 4, 2])


@check
def many_rows(conn):
    table = fresh(conn)
    for start in range(0, 5000, 500):
        rows = [{"id": number, "pad": "x" * 100} for number in range(start, start + 500)]
        same(table.insert(rows, durability="soft").run(conn)["inserted"], 500)
    same(sorted(row["id"] for row in table.run(conn)), list(range(5000)))
    same(table.delete().run(conn)["deleted"], 5000)


@check
def small_batches(conn):
    table = fresh(conn)
    table.insert([{"id": number} for number in range(50)]).run(conn)
    found = sorted(row["id"] for row in table.run(conn, max_batch_rows=3))
    same(found, list(range(50)))
    cursor = table.run(conn, max_batch_rows=3)
    next(cursor)
    cursor.close()
    same(table.count().run(conn), 50)


@check
def updating(conn):
    table = fresh(conn)
    table.insert([{"id": number, "n": 1} for number in range(3)]).run(conn)
    same(table.get(0).update({"n": 2}).run(conn), counts(replaced=1))
    same(table.get(0).update({"n": 2}).run(conn), counts(unchanged=1))
    same(table.get(9).update({"n": 2}).run(conn), counts(skipped=1))
    same(
        table.get(0).update({"n": r.row["n"].add(1)}, return_changes=True).run(conn),
        counts(replaced=1, changes=[{"old_val": {"id": 0, "n": 2}, "new_val": {"id": 0, "n": 3}}]),
    )
    same(table.get(0).update({"n": 3}, return_changes=True).run(conn), counts(unchanged=1, changes=[]))
    same(
        table.get(0).update({"n": 3}, return_changes="always").run(conn)["changes"],
        [{"old_val": {"id": 0, "n": 3}, "new_val": {"id": 0, "n": 3}}],
    )
    same(table.filter({"n": 1}).update({"k": True}).run(conn), counts(replaced=2))
    same(table.update(lambda row: {"n": row["n"].mul(10)}).run(conn), counts(replaced=3))
    same(table.order_by("id")["n"].run(conn), [30, 10, 10])
    missing = 'No attribute `nope` in object:\n{\n\t"id":\t0,\n\t"n":\t30\n}'
    same(table.get(0).update({"n": r.row["nope"]}).run(conn), counts(errors=1, first_error=missing))
    changed = table.get(0).update({"id": 7}).run(conn)
    same(changed["errors"], 1)
    assert "Primary key `id` cannot be changed" in changed["first_error"], changed
    same(table.get(0).update({"gone": 1}).run(conn), counts(replaced=1))
    same(table.get(0).update({"gone": r.literal()}).run(conn), counts(replaced=1))
    same(table.get(0).run(conn), {"id": 0, "n": 30})
    refused(
        ReqlQueryLogicError,
        "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?",
        table.get(0).update({"n": table.count()}),
        conn,
    )
    refused(ReqlQueryLogicError, "Expected type SELECTION but found DATUM", r.expr([1]).update({}), conn)


@check
def replacing(conn):
    table = fresh(conn)
    same(table.get("a").replace({"id": "a", "n": 5}).run(conn), counts(inserted=1))
    same(table.get("a").replace({"id": "a", "n": 6}).run(conn), counts(replaced=1))
    same(table.get("a").replace({"id": "a", "n": 6}).run(conn), counts(unchanged=1))
    same(
        table.get("a").replace({"n": 6}).run(conn),
        counts(errors=1, first_error='Inserted object must have primary key `id`:\n{\n\t"n":\t6\n}'),
    )
    moved = (
        'Primary key `id` cannot be changed (`{\n\t"id":\t"a",\n\t"n":\t6\n}` -> `{\n\t"id":\t"q",\n\t"n":\t6\n}`).'
    )
    same(table.get("a").replace({"id": "q", "n": 6}).run(conn), counts(errors=1, first_error=moved))
    guarded = lambda n: lambda row: r.branch(row["n"].eq(n), row.merge({"n": n + 1}), r.error("conflict"))
    same(table.get("a").replace(guarded(6)).run(conn), counts(replaced=1))
    same(table.get("a").replace(guarded(6)).run(conn), counts(errors=1, first_error="conflict"))
    same(table.get("a").replace(lambda row: row.without("n")).run(conn), counts(replaced=1))
    same(table.get("a").replace(None).run(conn), counts(deleted=1))
    same(table.get("a").replace(None).run(conn), counts(skipped=1))


@check
def deleting(conn):
    table = fresh(conn)
    table.insert([{"id": number} for number in range(5)]).run(conn)
    same(table.get(0).delete().run(conn), counts(deleted=1))
    same(table.get(0).delete().run(conn), counts(skipped=1))
    same(
        table.get(1).delete(return_changes=True).run(conn),
        counts(deleted=1, changes=[{"old_val": {"id": 1}, "new_val": None}]),
    )
    same(table.filter(r.row["id"].lt(4)).delete(durability="hard").run(conn), counts(deleted=2))
    same(table.order_by("id").limit(1).delete().run(conn), counts(deleted=1))
    same(table.count().run(conn), 0)
    same(table.sync().run(conn), {"synced": 1})


@check
def writers_do_not_lose_each_other(conn):
    table = fresh(conn)
    table.insert({"id": 1, "n": 0}).run(conn)
    failed = []

    def work():
        try:
            other = connect()
            for _ in range(25):
                table.get(1).update({"n": r.row["n"].add(1)}).run(other)
            other.close()
        except Exception as why:  # pylint: disable=broad-except
            failed.append(why)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(DEADLINE)
    same(failed, [])
    same(table.get(1)["n"].run(conn), 100)


# --- change feeds ---


@check
def feed_of_a_table(conn):
    table = fresh(conn)
    feed = Feed(table.changes())
    same(table.insert({"id": 1, "n": 1}).run(conn)["inserted"], 1)
    same(feed.next(), {"old_val": None, "new_val": {"id": 1, "n": 1}})
    table.get(1).update({"n": 2}).run(conn)
    same(feed.next(), {"old_val": {"id": 1, "n": 1}, "new_val": {"id": 1, "n": 2}})
    table.get(1).update({"n": 2}).run(conn)
    table.get(1).delete().run(conn)
    same(feed.next(), {"old_val": {"id": 1, "n": 2}, "new_val": None})


@check
def feed_with_everything(conn):
    table = fresh(conn)
    table.insert({"id": 1}).run(conn)
    feed = Feed(table.changes(include_initial=True, include_states=True, include_types=True))
    same(
        feed.take(3),
        [
            {"type": "state", "state": "initializing"},
            {"type": "initial", "new_val": {"id": 1}},
            {"type": "state", "state": "ready"},
        ],
    )
    table.insert({"id": 2}).run(conn)
    same(feed.next(), {"type": "add", "old_val": None, "new_val": {"id": 2}})
    table.get(2).update({"n": 1}).run(conn)
    same(feed.next(), {"type": "change", "old_val": {"id": 2}, "new_val": {"id": 2, "n": 1}})
    table.get(2).delete().run(conn)
    same(feed.next(), {"type": "remove", "old_val": {"id": 2, "n": 1}, "new_val": None})


@check
def feed_states_alone(conn):
    feed = Feed(fresh(conn).changes(include_states=True))
    same(feed.next(), {"state": "ready"})


@check
def feed_of_a_row(conn):
    table = fresh(conn)
    feed = Feed(table.get("a").changes(include_initial=True, include_states=True))
    same(feed.take(3), [{"state": "initializing"}, {"new_val": None}, {"state": "ready"}])
    table.insert([{"id": "other"}, {"id": "a"}]).run(conn)
    same(feed.next(), {"old_val": None, "new_val": {"id": "a"}})
    table.get("a").delete().run(conn)
    same(feed.next(), {"old_val": {"id": "a"}, "new_val": None})
    plain = Feed(table.get("a").changes())
    table.insert({"id": "a"}).run(conn)
    same(plain.next(), {"old_val": None, "new_val": {"id": "a"}})


@check
def feed_of_a_filter(conn):
    table = fresh(conn)
    table.insert([{"id": 1, "done": False}, {"id": 2, "done": True}]).run(conn)
    feed = Feed(table.filter({"done": False}).changes(include_initial=True, include_types=True))
    same(feed.next(), {"type": "initial", "new_val": {"id": 1, "done": False}})
    table.get(1).update({"done": True}).run(conn)
    same(feed.next(), {"type": "remove", "old_val": {"id": 1, "done": False}, "new_val": None})
    table.get(2).update({"done": False}).run(conn)
    same(feed.next(), {"type": "add", "old_val": None, "new_val": {"id": 2, "done": False}})


@check
def feed_of_some_keys_and_fields(conn):
    table = fresh(conn)
    feed = Feed(table.get_all("a", "b").pluck("id", "n").changes())
    table.insert([{"id": "c"}]).run(conn)
    table.insert([{"id": "b", "n": 1, "m": 1}]).run(conn)
    same(feed.next(), {"old_val": None, "new_val": {"id": "b", "n": 1}})
    table.get("b").update({"m": 2}).run(conn)
    table.get("b").update({"n": 2}).run(conn)
    same(feed.next(), {"old_val": {"id": "b", "n": 1}, "new_val": {"id": "b", "n": 2}})


@check
def feed_with_work_after_it(conn):
    table = fresh(conn)
    feed = Feed(table.changes().filter(r.row["old_val"].eq(None))["new_val"]["id"].limit(2))
    table.insert({"id": 1}).run(conn)
    table.get(1).delete().run(conn)
    table.insert({"id": 2}).run(conn)
    same(feed.take(3), [1, 2, "over"])


@check
def squashed_feed(conn):
    table = fresh(conn)
    table.insert({"id": 1, "n": 0}).run(conn)
    feed = Feed(table.changes(squash=True))
    for number in range(1, 20):
        table.get(1).update({"n": number}).run(conn, durability="soft")
    while feed.next()["new_val"]["n"] != 19:
        pass


@check
def feeds_that_cannot_be(conn):
    table = fresh(conn)
    refused(
        ReqlQueryLogicError, "Expected BOOL or NUMBER but found STRING.", table.changes(squash="x"), conn, ["squash"]
    )
    refused(ReqlOpFailedError, "does not exist.", r.db(DB).table("absent").changes(), conn, [0])
    refused(ReqlQueryLogicError, "Cannot call `changes` on an eager stream.", table.order_by("n").changes(), conn)


@check
def feed_of_a_dropped_table(conn):
    table = fresh(conn)
    name = table.config()["name"].run(conn)
    feed = Feed(table.changes(include_states=True))
    same(feed.next(), {"state": "ready"})
    r.db(DB).table_drop(name).run(conn)
    why = feed.next()
    assert isinstance(why, ReqlOpFailedError) and "Changefeed aborted (unavailable)." in why.message, why


@check
def other_queries_beside_a_feed(conn):
    table = fresh(conn)
    cursor = table.changes(include_states=True).run(conn)
    same(next(cursor), {"state": "ready"})
    table.insert({"id": 1}).run(conn)
    same(table.get(1).run(conn), {"id": 1})
    same(cursor.next(wait=DEADLINE), {"old_val": None, "new_val": {"id": 1}})
    try:
        cursor.next(wait=0.05)
        raise AssertionError("a change out of nowhere")
    except ReqlTimeoutError:
        pass
    same(r.expr(1).run(conn), 1)
    cursor.close()
    same(r.expr(2).run(conn), 2)


# --- the database `rethinkdb` ---


@check
def system_tables(conn):
    listed = SYSTEM.table_list().run(conn)
    for name in ["current_issues", "db_config", "server_config", "server_status", "table_config", "table_status", "users"]:
        assert name in listed, name
        list(SYSTEM.table(name).run(conn))
    refused(ReqlOpFailedError, "Table `rethinkdb.absent` does not exist.", SYSTEM.table("absent"), conn)
    admin = SYSTEM.table("users").get("admin").run(conn)
    same(admin, {"id": "admin", "password": False})
    for row in SYSTEM.table("server_status").run(conn):
        same(sorted(row), ["id", "name", "network", "process"])
        same(
            sorted(row["network"]),
            [
                "canonical_addresses",
                "cluster_port",
                "connected_to",
                "hostname",
                "http_admin_port",
                "reql_port",
                "time_connected",
            ],
        )
        same(sorted(row["process"]), ["argv", "cache_size_mb", "pid", "time_started", "version"])
        assert all(row["network"]["connected_to"].values()), row
        same(sorted(row["network"]["canonical_addresses"][0]), ["host", "port"])
    for row in SYSTEM.table("server_config").run(conn):
        same(sorted(row), ["cache_size_mb", "id", "name", "tags"])
        assert "default" in row["tags"], row
    same(list(SYSTEM.table("current_issues").run(conn)), [])


@check
def system_tables_by_id(conn):
    table = fresh(conn)
    config = table.config().run(conn)
    by_id = r.db("rethinkdb").table("table_config", identifier_format="uuid").get(config["id"]).run(conn)
    same(by_id["db"], r.db(DB).config()["id"].run(conn))
    servers = {row["name"]: row["id"] for row in SYSTEM.table("server_config").run(conn)}
    same(by_id["shards"][0]["primary_replica"], servers[config["shards"][0]["primary_replica"]])
    status = SYSTEM.table("table_status", identifier_format="uuid").get(config["id"]).run(conn)
    same(status["shards"][0]["primary_replicas"], [by_id["shards"][0]["primary_replica"]])


@check
def system_tables_that_cannot_be_written(conn):
    servers = SYSTEM.table("server_status").count().run(conn)
    text = "It's illegal to write to the `rethinkdb.server_status` table."
    same(SYSTEM.table("server_status").delete().run(conn), counts(errors=servers, first_error=text))


@check
def renaming_a_table(conn):
    table = fresh(conn)
    name = "new_" + uuid.uuid4().hex
    same(table.config().update({"name": name}).run(conn), counts(replaced=1))
    assert name in r.db(DB).table_list().run(conn)
    same(r.db(DB).table(name).insert({"id": 1}).run(conn)["inserted"], 1)


@check
def table_config_by_write(conn):
    table = fresh(conn)
    same(table.config().update({"write_acks": "single"}).run(conn), counts(replaced=1))
    same(table.config()["write_acks"].run(conn), "single")
    bad = table.config().update({"write_acks": "x"}).run(conn)
    same(
        bad["first_error"],
        "The change you're trying to make to `rethinkdb.table_config` has the wrong format. In `write_acks`: Expected "
        '"single" or "majority", got: "x"',
    )
    bad = table.config().update({"shards": [{"primary_replica": "zz", "replicas": ["zz"]}]}).run(conn)
    same(
        bad["first_error"],
        "The change you're trying to make to `rethinkdb.table_config` has the wrong format. In `shards`: In "
        "`replicas`: Server `zz` does not exist or is not connected.",
    )


@check
def server_tags(conn):
    server = SYSTEM.table("server_config").nth(0).run(conn)
    row = SYSTEM.table("server_config").get(server["id"])
    same(row.update({"tags": ["default", "extra"]}).run(conn), counts(replaced=1))
    same(row["tags"].run(conn), ["default", "extra"])
    made = r.db(DB).table_create("tagged", replicas={"extra": 1}, primary_replica_tag="extra").run(conn)
    same(made["config_changes"][0]["new_val"]["shards"][0]["replicas"], [server["name"]])
    same(row.update({"tags": server["tags"]}).run(conn), counts(replaced=1))


@check
def feed_of_a_system_table(conn):
    table = fresh(conn)
    name = table.config()["name"].run(conn)
    row = SYSTEM.table("table_config").filter({"name": name})
    feed = Feed(row.pluck("name", "write_acks").changes(include_initial=True))
    same(feed.next(), {"new_val": {"name": name, "write_acks": "majority"}})
    table.config().update({"write_acks": "single"}).run(conn)
    same(
        feed.next(),
        {"old_val": {"name": name, "write_acks": "majority"}, "new_val": {"name": name, "write_acks": "single"}},
    )


def main():
    only = set(sys.argv[2:])
    conn = connect()
    r.db_create(DB).run(conn)
    failed = 0
    try:
        for function in CHECKS:
            if only and function.__name__ not in only:
                continue
            try:
                function(conn)
                print(f"ok      {function.__name__}", flush=True)
            except Exception:  # pylint: disable=broad-except
                failed += 1
                print(f"FAILED  {function.__name__}\n{traceback.format_exc()}", flush=True)
                conn = connect()
    finally:
        r.db_drop(DB).run(connect())
    print(f"{len(CHECKS)} checks, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
