"""Passwords inside addresses, which are for the server alone and are written nowhere."""

import re

_MASK = "***"
_IN_ADDRESS = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?P<user>[^/\s:@]*):[^\s/]*@")


def without_password(text: str) -> str:
    """A text with the password of each address in it masked.

    Example:
        >>> without_password("no answer from https://ann:s3cret@mlflow.example:5000")
        'no answer from https://ann:***@mlflow.example:5000'
    """
    return _IN_ADDRESS.sub(rf"\g<scheme>\g<user>:{_MASK}@", text)
