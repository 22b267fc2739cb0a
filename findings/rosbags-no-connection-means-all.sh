#!/usr/bin/env bash
# Asking a ROS bag for a topic that it doesn't hold gives every message of every topic.
#
# Expected   connections filtered by the topic's name: none; so messages(connections=[]) gives none.
# Found      an empty selection is no selection: all messages come, of all sensors. And a bag without messages starts in
#            the year 2262 (2**63 - 1 ns) and ends at 0, with duration 0.
# With       rosbags 0.11.9, sqlite3 and MCAP storage; 2026-11-27
# Matters    the usual loop over one camera's messages reads the other camera's in those recordings that lack it. Where
#            the types agree nothing fails.
# Source     the reader's docstring says that an empty iterable switches the filter off.
# subsense   no reader of bags; if one is written, it must ask whether the topic is there.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "rosbags==0.11.9" "numpy==2.3.5"
cd "$dir"
"$dir/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

print("rosbags", version("rosbags"))
types = get_typestore(Stores.ROS2_HUMBLE)
number, kind = types.types["std_msgs/msg/Float32"], "std_msgs/msg/Float32"


def write(name, storage, topics):
    with Writer(name, version=9, storage_plugin=storage) as writer:
        for topic, times in topics.items():
            connection = writer.add_connection(topic, kind, typestore=types)
            for time in times:
                writer.write(connection, time, types.serialize_cdr(number(1.0), kind))


for storage in (StoragePlugin.SQLITE3, StoragePlugin.MCAP):
    write(f"two_{storage.name}", storage, {"/rgb": [10, 20, 30], "/depth": [10]})
    with Reader(f"two_{storage.name}") as reader:
        wanted = [c for c in reader.connections if c.topic == "/thermal"]
        got = [c.topic for c, _, _ in reader.messages(connections=wanted)]
    write(f"none_{storage.name}", storage, {"/rgb": []})
    with Reader(f"none_{storage.name}") as reader:
        empty = reader.start_time, reader.end_time, reader.duration
    print(f"{storage.name:8} connections of /thermal: {len(wanted)}; messages of it: {sorted(got)}")
    print(f"{storage.name:8} empty bag: start, end, duration {empty}")
    assert wanted == [] and sorted(got) == ["/depth", "/rgb", "/rgb", "/rgb"]
    assert empty == (2**63 - 1, 0, 0)
PY
