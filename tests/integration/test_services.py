"""tandem up, down and status with a real broker and a real redis-server: ready, crashed, killed, stuck, stopped; nothing is left behind."""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from pipelines.lake.process_identity import ProcessId, started
from pipelines.lake.processes import start_child, stop_child
from pipelines.project.config import KafkaSettings
from pipelines.services import jars, local
from pipelines.services import kafka_broker as local_kafka
from pipelines.services import redis_server as local_redis
from pipelines.services import service_state as state
from pipelines.sources.kafka.kafka_client import KafkaBroker, client_options
from tests.kafka_server import kafka_server
from tests.listening import beyond_loopback, descendants, listeners
from tests.waiting import until
from transforms.errors import ConfigError, StoreError

ROOT = Path(__file__).resolve().parents[2]
X0 = TopicPartition("x", 0)


def tandem(*arguments, data, **options):
    """The command as a process."""
    command = [sys.executable, "-m", "pipelines.cli", *arguments, "--data", str(data)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def ran(*arguments, data, **options):
    """The command's (exit code, standard output, standard error as one line)."""
    process = tandem(*arguments, data=data, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, " ".join(err.split())


def processes(folder):
    """The processes that work for a data folder: pid to command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in line or os.readlink(entry / "cwd").startswith(str(folder)):
                    found[int(entry.name)] = line
    return found


def nothing_left(folder):
    """All processes of a data folder end by themselves."""
    with contextlib.suppress(AssertionError):
        until(lambda: not processes(folder))
    assert processes(folder) == {}


@pytest.fixture
def data(tmp_path):
    """A data folder whose services are gone afterwards, whatever the test did."""
    folder = tmp_path / "data"
    LOGIN["of"] = folder
    yield folder
    del LOGIN["of"]
    for pid, line in processes(folder).items():
        if "pipelines.cli" in line:  # of a test that failed
            os.kill(pid, signal.SIGKILL)
    local.down(folder)
    nothing_left(folder)


LOGIN: dict[str, Path] = {}


def login():
    """Options of a client: the password of the data folder's broker, if that asks for one."""
    password = local_kafka.password_of(LOGIN["of"] / "services" / "kafka") if LOGIN else ""
    plain = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_plain_username": "tandem"}
    return {**plain, "sasl_plain_password": password} if password else {}


def produce(bootstrap, *values, topic="x"):
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", **login())
    for value in values:
        producer.send(topic, value, partition=0, timestamp_ms=1_356_998_400_000).get(30)  # of 2013: old enough for any retention
    producer.close()


def running_state(folder: Path) -> state.State:
    found = state.read(folder, "kafka")
    assert found is not None
    return found


def records(bootstrap):
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, **login())
    consumer.assign([X0])
    end = consumer.end_offsets([X0])[X0]
    found: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(found) < end and time.monotonic() < deadline:
        found += [record.value for batch in consumer.poll(500).values() for record in batch]
    consumer.close()
    return found


def make_topic(bootstrap, name="x"):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, **login())
    admin.create_topics([NewTopic(name, 1, 1)])
    admin.close()


@pytest.mark.slow
def test_up_status_down_by_the_command_line(data):
    assert json.loads(ran("status", "--json", data=data)[1]) == {"kafka": {"state": "stopped"}, "redis": {"state": "stopped"}}
    code, _, said = ran("down", data=data)
    assert code == 0 and "no services are running" in said

    code, _, said = ran("up", "--redis", data=data)
    assert code == 0, said
    facts = json.loads(ran("status", "--json", data=data)[1])
    bootstrap = facts["kafka"]["address"]
    assert facts["kafka"]["state"] == facts["redis"]["state"] == "running"
    assert bootstrap in said and bootstrap == local_kafka.running(data) and local_redis.running(data) == facts["redis"]["address"]
    make_topic(bootstrap)
    produce(bootstrap, b"one", b"two")
    secret, port = local_kafka.password_of(data / "services" / "kafka"), int(bootstrap.rpartition(":")[2])
    assert local_kafka.answers(port, 5, secret) is not None
    for wrong in ("", "wrong", secret[:-1]):  # SECURITY H6
        assert local_kafka.answers(port, 5, wrong) is None
    assert (data / "services" / "kafka" / "server.properties").stat().st_mode & 0o777 == 0o600
    options = client_options(KafkaSettings(), data)
    assert options["sasl_plain_password"] == secret and secret.encode() not in pickle.dumps(
        KafkaBroker.from_settings(KafkaSettings(), data)
    )
    with pytest.raises(redis.exceptions.AuthenticationError):  # SECURITY H6
        redis.Redis.from_url(f"redis://{facts['redis']['address']}").ping()
    password = local_redis.password_of(data / "services" / "redis")
    for name in ("password", "redis.conf"):
        assert (data / "services" / "redis" / name).stat().st_mode & 0o777 == 0o600
    ours = descendants(*(facts[name]["pid"] for name in ("kafka", "redis")))
    assert listeners(ours) and beyond_loopback(ours) == [], "SECURITY C1: of what tandem up starts nothing is reached from outside"
    assert not any(secret.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in ours)
    assert not any(password.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in ours)
    store = redis.Redis.from_url(f"redis://:{password}@{facts['redis']['address']}")
    store.set("key", "value")
    store.close()

    code, _, said = ran("up", data=data)
    assert code == 0 and f"kafka is already running on {bootstrap}" in said

    code, _, said = ran("down", data=data)
    assert code == 0 and f"stopped kafka on {bootstrap}" in said and "redis on" in said
    assert local_kafka.running(data) is None and local_redis.running(data) is None
    assert not processes(data)

    local.up(data, with_redis=True)
    assert local_kafka.running(data) == bootstrap  # the same address, if it is free
    assert records(bootstrap) == [b"one", b"two"]
    store = redis.Redis.from_url(f"redis://:{local_redis.password_of(data / 'services' / 'redis')}@{local_redis.running(data)}")
    assert store.get("key") == b"value"
    store.close()
    local.down(data, delete=True)
    assert not (data / "services" / "kafka").exists() and not (data / "services" / "redis").exists()


def listening(pid):
    """(address, port) of the TCP sockets on which a process listens, as in /proc: the address in hexadecimal."""
    inodes = set()
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(handle))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(tuple(fields[1].split(":")))
    return found


def test_kafka_for_people_with_odd_folders_and_a_port_of_their_own(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        folder = tmp_path / "a b, é" / "data"
        broker = local_kafka.Broker(folder / "services" / "kafka", port=port)
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use"):
            broker.start()
    try:
        code, _, said = ran("up", "--kafka-port", str(port), data=folder, env={**os.environ, "LC_ALL": "C", "CLASSPATH": "/tmp/evil.jar"})
        assert code == 0 and f"127.0.0.1:{port}" in said, said
        known = running_state(folder)
        LOGIN["of"] = folder
        command = Path(f"/proc/{known.process.pid}/cmdline").read_bytes().split(b"\0")
        paths = command[command.index(b"-cp") + 1].split(b":")
        assert len(paths) == 56 and b"CLASSPATH" not in Path(f"/proc/{known.process.pid}/environ").read_bytes()
        listens = listening(known.process.pid)
        assert len(listens) == 2 and {address for address, _ in listens} <= {"0100007F", "0000000000000000FFFF00000100007F"}
        # What Tandem's own jobs rely on: no topic by accident, and transactions.
        with pytest.raises(Exception, match=r"(?i)topic|metadata|timeout"):
            KafkaProducer(bootstrap_servers=known.address, max_block_ms=1000, **login()).send("mistyped", b"x").get(5)
        make_topic(known.address)
        producer = KafkaProducer(bootstrap_servers=known.address, transactional_id="t", **login())
        producer.init_transactions()
        producer.begin_transaction()
        producer.send("x", b"one", partition=0)
        producer.commit_transaction()
        producer.close()
    finally:
        LOGIN.clear()
        local.down(folder)
    assert not processes(folder)


@pytest.mark.parametrize("moment", ["the daemon starts", "the data folder is made", "the broker starts"])
def test_a_crash_of_up_leaves_no_process(data, moment):
    up = tandem("up", data=data)
    word = {"the daemon starts": "services.daemon", "the data folder is made": "StorageTool", "the broker starts": " kafka.Kafka "}[moment]
    until(lambda: any(word in line for line in processes(data).values()), what=moment)
    up.kill()
    up.communicate()
    nothing_left(data)
    assert local_kafka.running(data) is None
    if moment == "the data folder is made":  # and the next one is not hindered
        local.up(data)
        assert local.status(data)["kafka"].state == "running"


def test_interrupting_up_leaves_no_process(data):
    for _ in range(5):
        up = tandem("up", data=data)
        broker = until(lambda: [pid for pid, line in processes(data).items() if " kafka.Kafka " in line], what="the broker's start")[0]
        os.kill(broker, signal.SIGSTOP)  # however busy the machine, it is not ready before the signal
        up.send_signal(signal.SIGINT)
        os.kill(broker, signal.SIGCONT)
        up.communicate(timeout=30)
        if up.returncode != 0:
            break
        local.down(data)  # it was through before it was interrupted
    else:
        pytest.fail("it was never interrupted in time")
    assert up.returncode is not None
    nothing_left(data)


def test_two_ups_at_once_make_one_broker(data):
    both = [tandem("up", data=data) for _ in range(2)]
    said = [" ".join(process.communicate(timeout=120)[1].split()) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("kafka is running on" in line for line in said) == sum("kafka is already running on" in line for line in said) == 1, said
    assert sum(" kafka.Kafka " in line for line in processes(data).values()) == 1


def test_a_killed_broker_is_told_and_comes_back_with_its_records(data):
    local.up(data)
    bootstrap = local_kafka.running(data)
    make_topic(bootstrap)
    produce(bootstrap, b"one")
    os.kill(running_state(data).process.pid, signal.SIGKILL)
    facts = until(lambda: (s := local.status(data)["kafka"]).state == "ended" and "signal 9" in s.detail and s)
    assert "tandem up" in facts.detail and local_kafka.running(data) is None
    said: list[str] = []
    local.up(data, say=said.append)
    assert any("again (killed by signal 9" in line for line in said)
    assert local_kafka.running(data) == bootstrap and records(bootstrap) == [b"one"]

    os.kill(running_state(data).daemon.pid, signal.SIGKILL)  # the broker goes with it
    nothing_left(data)
    facts = local.status(data)["kafka"]
    assert facts.state == "ended" and "together with its daemon" in facts.detail
    said.clear()
    assert local.down(data, say=said.append) == [] and "had already exited" in said[0]
    assert local.status(data)["kafka"] == local.ServiceStatus(state="stopped")


def test_a_stuck_broker_is_told_and_ended(data, monkeypatch):
    local.up(data)
    known = running_state(data)
    with monkeypatch.context() as impatient:
        impatient.setattr(local, "SECONDS_TO_ANSWER", 0.5)
        os.kill(known.process.pid, signal.SIGSTOP)
        until(lambda: local.status(data)["kafka"].state == "silent")  # its threads stop one after the other
        with pytest.raises(StoreError, match=r"does not respond.*tandem down"):
            local.up(data)
    os.kill(known.process.pid, signal.SIGCONT)
    until(lambda: local.status(data)["kafka"].state == "running")
    os.kill(known.process.pid, signal.SIGSTOP)
    assert local.down(data) == ["kafka"]
    assert not known.process.alive and not known.daemon.alive


def test_a_broker_that_cannot_start_is_one_line(data):
    folder = data / "services" / "kafka"
    folder.mkdir(parents=True)
    (folder / "log").mkdir()
    (folder / "log" / "meta.properties").write_text("version=1\ncluster.id=T\nnode.id=7\n")
    code, _, said = ran("up", data=data)
    assert code == 1 and "error: the Kafka broker ended while starting: " in said and "node" in said and "broker.log" in said, said
    assert not processes(data)


def test_a_process_that_has_the_number_of_an_old_one_is_left_alone(data, tmp_path):
    child = start_child(["sleep", "60"], tmp_path / "log")
    try:
        proc = ProcessId.of(child.pid)
        assert proc is not None and proc.alive
        stranger = ProcessId(child.pid, "another start")
        (data / "services").mkdir(parents=True)
        state.write(data, state.State(service="kafka", address="127.0.0.1:1", daemon=stranger, process=stranger))
        assert local_kafka.running(data) is None and local.status(data)["kafka"].state == "ended"
        local.down(data)
        assert child.poll() is None and proc.alive
    finally:
        stop_child(child)
    assert not proc.alive and started(child.pid) is None


def test_a_child_dies_with_its_parent(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipelines.lake.processes import start_child;"
        "print(start_child(['sleep', '60'], Path(sys.argv[1])).pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert started(pid)
    parent.kill()
    parent.communicate()
    until(lambda: started(pid) is None, what="the child's end")


def test_jars_that_are_there_are_checked_in_the_background():
    jars.classpath("kafka")
    assert jars.fetch_in_background(["kafka"]).wait(60) == 0


def test_the_fixture(tmp_path):
    with kafka_server(tmp_path) as broker:
        make_topic(broker.bootstrap)
        produce(broker.bootstrap, b"one")
        before = broker.bootstrap
        broker.kill()
        assert broker.pid is None
        broker.restart()
        assert broker.bootstrap == before and records(before) == [b"one"]
        broker.pause()
        assert local_kafka.answers(broker.port) is None
        broker.resume()
        until(lambda: local_kafka.answers(broker.port))
        pid = broker.pid
        assert pid is not None
        broker.pause()
    assert started(pid) is None
