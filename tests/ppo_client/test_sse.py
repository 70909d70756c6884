from ppo_client.sse import Message, messages

STREAM = (
    b"retry: 2000\n\n"
    b": ping\n\n"
    b'id: 1\nevent: status\ndata: {"a": "\xe2\x80\xa8\xc2\x85"}\n\n'
    b"id:2\r\nevent:metrics\r\ndata:first\r\ndata: second\r\n\r\n"
    b"event: end\rdata: {}\r\r"
    b"id: 4\nevent: status\ndata: cut off"
)
EXPECTED = [
    Message("status", '{"a": "\u2028\x85"}', "1"),
    Message("metrics", "first\nsecond", "2"),
    Message("end", "{}", None),
]


def test_messages_are_the_same_wherever_the_network_splits_them() -> None:
    for middle in range(len(STREAM) + 1):
        assert list(messages([STREAM[:middle], STREAM[middle:]])) == EXPECTED, middle
    assert list(messages(STREAM[index : index + 1] for index in range(len(STREAM)))) == EXPECTED


def test_a_message_without_its_blank_line_never_happened() -> None:
    assert list(messages([b"event: status\ndata: x\n"])) == []
