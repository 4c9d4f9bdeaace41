"""What a protocol states about the cost of its operations."""

from __future__ import annotations

from abc import ABC, abstractmethod

from tercet.protocol.base import Cost


class CostModel(ABC):
    """Payload bytes over all links and rounds, for ``size`` elements.

    ``partial`` says that the argument is a product before its resend.
    """

    @abstractmethod
    def reshare(self, size: int) -> Cost:
        """Cost of a resend."""

    @abstractmethod
    def truncate(self, size: int, shift: int, partial: bool) -> Cost:
        """Cost of a truncation."""

    @abstractmethod
    def truncate_fresh(self, size: int, shift: int, partial: bool) -> Cost:
        """Cost of a truncation with a fresh result."""

    @abstractmethod
    def relu(self, size: int, shift: int, bits: int, partial: bool) -> Cost:
        """Cost of a truncation and ReLU."""

    @abstractmethod
    def rectify(self, size: int, shift: int, bits: int, partial: bool) -> Cost:
        """Cost of a ReLU that keeps its bit."""

    @abstractmethod
    def negative(self, size: int, shift: int, bits: int, partial: bool) -> Cost:
        """Cost of a comparison with 0."""

    @abstractmethod
    def bit(self, size: int, position: int) -> Cost:
        """Cost of finding one bit of a share."""

    @abstractmethod
    def bit_and(self, size: int) -> Cost:
        """Cost of a boolean AND."""

    @abstractmethod
    def select(self, size: int) -> Cost:
        """Cost of a product with a shared bit."""

    @abstractmethod
    def gate(self, size: int, shift: int, partial: bool) -> Cost:
        """Cost of a truncation and product with a shared bit."""
