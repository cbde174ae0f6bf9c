"""ES modules → one script without imports, for a page that is one file.

Each module becomes a function whose result are its exports, called once, after the modules that it imports. Only the
two forms that our modules use are known: `import { a, b as c } from './x.js';` and `export` before a declaration.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

IMPORT = re.compile(r"^import \{([^}]*)\} from '([^']+)';$", re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) (\w+))", re.MULTILINE)
OTHER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


def bundle(main: str, read: Callable[[str], str]) -> str:
    """The script of the module `main` and all that it imports; `read` gives the text of a path.

    A module's exports are `modules["its/path.js"]`. Raises ValueError for modules that import each other in a circle,
    and for a form that is not known.
    """
    done: dict[str, str] = {}

    def add(path: str, above: tuple[str, ...]) -> None:
        if path in above:
            raise ValueError(f"{' imports '.join([*above, path])}")
        if path not in done:
            done[path] = _wrapped(path, read(path), lambda found: add(found, (*above, path)))

    add(main, ())
    return "'use strict';\nconst modules = {};\n" + "".join(done.values())


def _wrapped(path: str, text: str, add: Callable[[str], None]) -> str:
    def taken(found: re.Match[str]) -> str:
        source = posixpath.normpath(posixpath.join(posixpath.dirname(path), found[2]))
        add(source)
        names = ", ".join(name.strip().replace(" as ", ": ") for name in found[1].split(",") if name.strip())
        return f"const {{ {names} }} = modules['{source}'];"

    exports = [found[1] for found in EXPORT.finditer(text)]
    body = EXPORT.sub("", IMPORT.sub(taken, text))
    if other := OTHER.search(body):
        raise ValueError(f"{path}: {other[0]}: a form of import or export that is not known")
    return f"modules['{path}'] = (() => {{\n{body}return {{ {', '.join(exports)} }};\n}})();\n"
