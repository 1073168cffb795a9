"""Which licences let edited records be passed on; a literal table, and no legal advice."""

from __future__ import annotations

from dataclasses import dataclass

from data.errors import InputError, SettingsError, closest

CC = "https://creativecommons.org/licenses/"
COPIES = "copies and edited copies may be passed on"
NAMED = f"{COPIES} where the source is named"
SHARED = f"{NAMED}, under the same licence"
# licence: (what it asks, its text), by the Hub's identifiers and three of our own
LICENCES = {
    "cc0-1.0": (COPIES, "https://creativecommons.org/publicdomain/zero/1.0/"),
    "public-domain": (COPIES, "https://creativecommons.org/publicdomain/mark/1.0/"),
    "pddl": (COPIES, "https://opendatacommons.org/licenses/pddl/1-0/"),
    "unlicense": (COPIES, "https://unlicense.org/"),
    "odc-by": (NAMED, "https://opendatacommons.org/licenses/by/1-0/"),
    "odbl": (SHARED, "https://opendatacommons.org/licenses/odbl/1-0/"),
    "cdla-permissive-1.0": (COPIES, "https://cdla.dev/permissive-1-0/"),
    "cdla-permissive-2.0": (COPIES, "https://cdla.dev/permissive-2-0/"),
    "cdla-sharing-1.0": (SHARED, "https://cdla.dev/sharing-1-0/"),
    "cc-by-3.0": (NAMED, f"{CC}by/3.0/"),
    "cc-by-4.0": (NAMED, f"{CC}by/4.0/"),
    "cc-by-sa-3.0": (SHARED, f"{CC}by-sa/3.0/"),
    "cc-by-sa-4.0": (SHARED, f"{CC}by-sa/4.0/"),
    "cc-by-nc-3.0": (f"{NAMED}, not for trade", f"{CC}by-nc/3.0/"),
    "cc-by-nc-4.0": (f"{NAMED}, not for trade", f"{CC}by-nc/4.0/"),
    "cc-by-nc-sa-3.0": (f"{SHARED}, not for trade", f"{CC}by-nc-sa/3.0/"),
    "cc-by-nc-sa-4.0": (f"{SHARED}, not for trade", f"{CC}by-nc-sa/4.0/"),
    "mit": (NAMED, "https://spdx.org/licenses/MIT.html"),
    "apache-2.0": (NAMED, "https://spdx.org/licenses/Apache-2.0.html"),
    "bsd-2-clause": (NAMED, "https://spdx.org/licenses/BSD-2-Clause.html"),
    "bsd-3-clause": (NAMED, "https://spdx.org/licenses/BSD-3-Clause.html"),
    "gpl-3.0": (SHARED, "https://spdx.org/licenses/GPL-3.0-only.html"),
    "openrail": ("the licence's limits of use go along", "https://huggingface.co/blog/open_rail"),
    "openrail++": ("the licence's limits of use go along", "https://huggingface.co/blog/open_rail"),
    "creativeml-openrail-m": ("the licence's limits of use go along", "https://huggingface.co/blog/open_rail"),
    "other": ("as publish.permission says", ""),
    "unknown": ("as publish.permission says", ""),
}
OWNER = "its owner alone may pass it on"
EDITED = "it forbids edited copies, and every generated record is an edited copy"
REFUSED = {
    "all-rights-reserved": OWNER,
    "proprietary": OWNER,
    "confidential": OWNER,
    "no-redistribution": OWNER,
    "competition-rules": "the rules of a competition do not let its data be passed on",
    "evaluation-only": "it may be tried, not passed on",
    "research-only": "it may be studied, not passed on",
    "cc-by-nd-2.0": EDITED,
    "cc-by-nd-3.0": EDITED,
    "cc-by-nd-4.0": EDITED,
    "cc-by-nc-nd-2.0": EDITED,
    "cc-by-nc-nd-3.0": EDITED,
    "cc-by-nc-nd-4.0": EDITED,
}
UNSURE = ("other", "unknown")  # of themselves no leave to publish
OURS = ("public-domain",)  # names that the Hub does not know
BASES = {  # base models whose licence is known, by hub id
    "runwayml/stable-diffusion-inpainting": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-inpainting": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2-inpainting": "openrail++",
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": "openrail++",
}


@dataclass(frozen=True)
class Licence:
    """A licence that lets records be published, and who said so where it does not say so itself."""

    name: str
    permission: str = ""

    @property
    def asks(self) -> str:
        return LICENCES[self.name][0]

    @property
    def url(self) -> str:
        return LICENCES[self.name][1]

    @property
    def tags(self) -> dict[str, str]:
        """The keys of a card's metadata."""
        if self.name in OURS:
            return {"license": "other", "license_name": self.name, "license_link": self.url}
        return {"license": self.name}


def check(name: str, what: str, *, setting: str, permission: str = "") -> Licence:
    """The licence of `what`; SettingsError where it is not set or not known, InputError where it forbids publishing.

    permission: who allowed it and how; needed for "other" and "unknown", and no help against a licence that forbids.
    """
    name = name.strip().lower()
    if not name:
        raise SettingsError(f"{setting}: must name the licence of {what}, got nothing; set it, or 'unknown'")
    if name in REFUSED:
        raise InputError(f"{setting}: {what} must be free to be passed on, got '{name}': {REFUSED[name]}")
    if name not in LICENCES:
        hint = closest(name, [*LICENCES, *REFUSED])
        raise SettingsError(f"{setting}: must be a licence of the table, got {name!r}; {hint}, or set 'other'")
    if name in UNSURE and not permission.strip():
        raise InputError(
            f"{setting}: {what} must be free to be passed on, got '{name}', which does not say so; "
            "say who allowed it in publish.permission"
        )
    return Licence(name, permission.strip() if name in UNSURE else "")
