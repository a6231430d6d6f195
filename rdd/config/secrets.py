"""Passwords inside addresses, which are for the server alone and are written nowhere."""

import re

_MASK = "***"
_IN_ADDRESS = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?P<user>[^/\s:@]*):[^\s'\"]*@")
_IN_QUERY = re.compile(r"(?P<name>[?&][^=\s&#]*(?:token|pass|secret|key|sig|credential)[^=\s&#]*=)[^\s&#'\"]+", re.IGNORECASE)


def without_password(text: str) -> str:
    """A text with the password of each address in it masked, also where its query holds one.

    Up to the last ``@`` of a word all is taken for the password, since people forget to escape its special characters.

    Example:
        >>> without_password("no answer from https://ann:s3c/ret@mlflow.example:5000/?page=2&token=abc")
        'no answer from https://ann:***@mlflow.example:5000/?page=2&token=***'
    """
    return _IN_QUERY.sub(rf"\g<name>{_MASK}", _IN_ADDRESS.sub(rf"\g<scheme>\g<user>:{_MASK}@", text))
