"""What the service answers, as documented by its OpenAPI."""

from pydantic import BaseModel, Field


class Named(BaseModel):
    """A species by its names."""

    class_id: str
    scientific_name: str = ""
    vernacular_name: str = ""
    names: dict[str, str] = Field({}, description="by language code, where the service was given some")


class Scored(Named):
    """A species and how sure the network is of it."""

    score: float = Field(ge=0, le=1, description="of the network")
    probability: float | None = Field(None, description="calibrated, where the run has thresholds from enough samples")


class Detection(Scored):
    """A species in a stretch of the sound."""

    start: float = Field(description="s from the beginning")
    end: float


class Answer(BaseModel):
    """What was found in a sound."""

    duration: float = Field(description="s")
    detections: list[Detection] = Field(description="in the order of time")
    ranking: list[Scored] = Field(description="all species over the whole sound, best first")
    reason: str | None = Field(None, description='"no_clear_bird" where nothing was detected')
    picture: str = Field(description="spectrogram as a PNG in a data address; empty for very short sounds")
    highest: float = Field(description="Hz, the upper edge of the picture")
    model: str
    version: str


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="empty, not_audio, too_large, too_long, token, unknown, too_many or busy")
    detail: str = Field(description="in words")


class SpeciesFacts(Named):
    """What is known of a species."""

    order: str = ""
    family: str = ""
    minimum: float | None = Field(description="least score of a detection; none: it is never detected")
    links: dict[str, str] = Field(description="where to read on, by site")


class Health(BaseModel):
    """That the network is loaded."""

    status: str
    inside: int = Field(description="sounds that wait or are listened to")


class Version(BaseModel):
    """What listens, and what it takes."""

    version: str
    model: str
    species: int
    recipe: dict[str, object] = Field(description="front end")
    most_bytes: int
    most_seconds: float
    languages: list[str]
    keeps: bool = Field(description="whether sounds are kept")


class Sample(BaseModel):
    """A recording to try the service with."""

    name: str
    species: str
    author: str
    licence: str
    address: str
