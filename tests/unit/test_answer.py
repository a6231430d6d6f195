import json
from dataclasses import replace

import jsonschema
import pytest

from rdd.serving.answer import (
    NOTICE,
    Answer,
    AnswerBands,
    ContentCredentials,
    Rate,
    Reason,
    Unreadable,
    answer_schema,
    classification,
)

ANSWER = Answer(
    image="a photograph.jpg",
    sha256="0" * 64,
    verdict="likely_generated",
    score=0.9,
    probability=0.75,
    prior=0.5,
    threshold=0.6,
    true_positive_rate=Rate(value=0.8, interval=(0.7, 0.9)),
    false_positive_rate=Rate(value=None, interval=None),
    bands=AnswerBands(likely_real_to=0.2, likely_generated_from=0.7, false_positive_rate=0.01, false_negative_rate=0.05),
    model_version="1" * 64,
    reasons=(Reason(code="small", text="it is small", about="image"),),
    content_credentials=ContentCredentials(state="present", source_types=("trainedAlgorithmicMedia",)),
    error=None,
)
UNREADABLE = replace(
    ANSWER,
    verdict=None,
    score=None,
    probability=None,
    reasons=(),
    error=Unreadable(reason="empty", detail="the image has zero bytes"),
)


@pytest.mark.parametrize("answer", [ANSWER, UNREADABLE])
def test_an_answer_is_json_of_its_schema(answer: Answer) -> None:
    written = json.loads(json.dumps(answer.to_dict()))
    assert written == answer.to_dict()
    jsonschema.Draft202012Validator(answer_schema()).validate(written)
    assert written["notice"] == NOTICE
    assert "sole basis" in NOTICE


def test_the_schema_describes_every_field_and_refuses_other_verdicts() -> None:
    schema = answer_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema, *schema["$defs"].values()]
    fields = [field for part in parts if "properties" in part for field in part["properties"].values()]
    assert len(fields) > 25
    assert all(field.get("description") for field in fields)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(ANSWER.to_dict() | {"verdict": "fake"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({name: value for name, value in ANSWER.to_dict().items() if name != "bands"}, schema)


def test_an_answer_has_a_verdict_or_an_error() -> None:
    with pytest.raises(AssertionError):
        replace(ANSWER, error=UNREADABLE.error)
    with pytest.raises(AssertionError):
        replace(ANSWER, verdict=None)


def test_as_a_classification_the_likelier_label_comes_first_and_both_add_up() -> None:
    assert classification(ANSWER) == [{"label": "generated", "score": 0.75}, {"label": "real", "score": 0.25}]
    assert classification(replace(ANSWER, probability=0.25))[0] == {"label": "real", "score": 0.75}
    with pytest.raises(ValueError, match="must be readable to be classified, got empty"):
        classification(UNREADABLE)
