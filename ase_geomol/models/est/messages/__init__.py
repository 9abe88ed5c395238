"""What an atom hears from its neighbours, in coefficients: one class for each choice of `ESTConfig.message`."""

from .attention import AttentionMessage
from .base import Message
from .gata import GataMessage
from .graph_attention import GraphAttentionMessage
from .so2 import SO2Message
from .zonal import ZonalMessage

MESSAGES: dict[str, type[Message]] = {
    "zonal": ZonalMessage,
    "graph_attention": GraphAttentionMessage,
    "so2": SO2Message,
    "gata": GataMessage,
    "attention": AttentionMessage,
}
