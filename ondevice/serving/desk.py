"""What all routes work with, and how they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from pydantic import BaseModel, Field

from ondevice.serving.events import News
from ondevice.serving.gallery import Gallery
from ondevice.serving.jobs import Job, Jobs
from ondevice.serving.model import Served


class Refusal(BaseModel):
    """Why something was not done. `detail` is one sentence, with what to do."""

    error: str = Field(description="the class of the error")
    detail: str
    where: str = ""
    what: str = ""
    fix: str = ""
    exit_code: int = Field(default=0, description="that `ondevice generate` has for it; 0: it has none")


@dataclass(frozen=True, slots=True)
class Desk:
    """What all routes work with."""

    model: Served
    jobs: Jobs
    gallery: Gallery
    news: News

    def put(self, job: Job) -> int:
        """Queue a job; its place. Raises HTTPException (503) where the queue is full."""
        if not self.jobs.add(job):
            what = "the queue is full, or the server is ending. Fix: ask again once a picture is done."
            raise HTTPException(503, what, {"Retry-After": "5"})
        return self.jobs.waiting()


REFUSALS: dict[int | str, dict[str, Any]] = {
    422: {"model": Refusal, "description": "It cannot be drawn: the sentence says why, and what to do."},
    503: {"model": Refusal, "description": "The queue is full."},
}
