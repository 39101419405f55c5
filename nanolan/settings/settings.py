"""`Settings`: the table of every setting. Each field has a flag (--run-name), a variable (RUN_NAME) and a default.

nanolan/settings/load.py fills it from the command line, the environment and .env.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanolan.errors import AuthProblem, UsageProblem
from nanolan.money import parse_limit
from nanolan.phases import PHASES, Phase, data_files, phase_sequence
from nanolan.redact import Mask, Secret
from nanolan.settings import values as value
from nanolan.settings.values import duration as duration
from nanolan.settings.values import is_loopback as is_loopback

if TYPE_CHECKING:
    from nanolan.plan import Fork

ROOT = Path(__file__).resolve().parents[2]
OWN_TRAINER = "nanolan"
OF_THE_RUN = "the run's plan"  # the source of a setting that a resumed run keeps


# How --help calls a value, by its parser
METAVARS: dict[Callable[[str], Any], str] = {
    parse_limit: "USD",
    value.count: "N",
    value.duration: "TIME",
    value.few: "N",
    value.gate: "CONDITION",
    value.gpu: "GPU",
    value.init: "OWNER/NAME:FOLDER",
    value.minutes: "MINUTES",
    value.notify: "URL",
    value.phase: "PHASE",
    value.repo: "OWNER/NAME",
    value.train_options: "OPTIONS",
    value.wandb_address: "URL",
    value.yes: "yes|no",
}


def _setting(
    env: str,
    help: str,
    default: str | None = None,
    parse: Callable[[str], Any] = str,
    *,
    where: str = "",
    secret: bool = False,
    metavar: str = "",
) -> Any:
    return field(
        metadata={
            "env": env,
            "help": help,
            "default": default,
            "where": where,
            "secret": secret,
            "parse": value.secret if secret and parse is str else parse,
            "flag": parse is value.yes and default == "no",
            "metavar": metavar
            or ("KEY" if secret and parse is str else METAVARS.get(parse, "NAME")),
        }
    )


@dataclass(frozen=True)
class Settings:
    """Every setting, parsed; None where a setting has no value."""

    phase: str = _setting(
        "TRAINING_PHASE", "what to train: mid, sft, rl, mid+sft, sft+rl, all", "sft", value.phase
    )
    trainer: str = _setting(
        "TRAINER",
        "what trains: nanolan, or a nanochat checkout of yours: its folder, or URL@commit",
        OWN_TRAINER,
        metavar="FOLDER|URL",
    )
    train_options: tuple[tuple[str, str], ...] | None = _setting(
        "TRAIN_OPTIONS",
        "options of your checkout's scripts, typed as train.NAME=VALUE or train.PHASE.NAME=VALUE",
        None,
        value.train_options,
    )
    run_name: str = _setting("RUN_NAME", "name in logs and wandb", "lanbot-v3", value.name)
    gpu: str = _setting(
        "GPU", "GPU type, in any case: H100, a100, H100:8; or any", "B200", value.gpu
    )
    num_gpus: int = _setting("NUM_GPUS", "GPUs in the instance", "8", value.count)
    spend_limit: int = _setting(
        "SPEND_LIMIT", "delete the instance at this bill, in dollars", "150", parse_limit
    )
    max_duration: int | None = _setting(
        "MAX_DURATION", "delete the instance after this time: 90m, 2h", None, value.duration
    )
    model_tag: str = _setting(
        "MODEL_TAG",
        "which model: its folder name in base_checkpoints/ and the others",
        "d20",
        value.name,
    )
    output_tag: str | None = _setting(
        "OUTPUT_TAG", "folder to write to, if other than the model tag", None, value.name
    )
    init: str | None = _setting(
        "INIT",
        "checkpoint to start from, OWNER/REPO:FOLDER on the Hub  [the phase's folder in HF_REPO]",
        None,
        value.init,
    )
    cloud: str | None = _setting("CLOUD", "only this provider, such as hyperstack")
    region: str | None = _setting("REGION", "only this region, such as canada-1")
    instance_type: str | None = _setting(
        "INSTANCE_TYPE", "only this instance type, such as 8x_b200_pcie_192gb"
    )
    batch: int | None = _setting(
        "DEVICE_BATCH_SIZE",
        "rows per GPU and micro-step; the recipe does not change",
        None,
        value.count,
    )
    eval: str = _setting(
        "EVAL",
        "evaluate the model after each phase: none, quick, full",
        "quick",
        value.one_of("none", "quick", "full"),
        metavar="none|quick|full",
    )
    humaneval: bool = _setting(
        "HUMANEVAL", "also run HumanEval, which executes code that the model wrote", "no", value.yes
    )
    no_identity: bool = _setting(
        "NO_IDENTITY", "mid without identity_conversations.jsonl", "no", value.yes
    )
    save_minutes: float = _setting(
        "SAVE_MINUTES", "minutes between states saved on the instance's disk", "10", value.minutes
    )
    upload_minutes: float | None = _setting(
        "UPLOAD_MINUTES",
        "minutes between uploads of the state  [as many as cost $5]",
        None,
        value.minutes,
    )
    gate: str | None = _setting(
        "GATE",
        'start the next phase only if this holds, such as "gsm8k_acc>0.05", or none',
        None,
        value.gate,
    )
    spot: str = _setting(
        "SPOT",
        "spot offers, which the provider may take away at any time (assumed: once in 6 h): no, yes, only",
        "no",
        value.one_of("no", "yes", "only"),
        metavar="no|yes|only",
    )
    failover: int = _setting(
        "FAILOVER", "how many other offers to try after a failure", "3", value.few
    )
    max_price: int | None = _setting(
        "MAX_PRICE", "no offer above this many dollars an hour", None, parse_limit
    )
    max_total: int | None = _setting(
        "MAX_TOTAL",
        "no offer where the forecast of the run is above this many dollars",
        None,
        parse_limit,
    )
    probation_usd: int = _setting(
        "PROBATION_USD", "dollars that a new instance may cost before it trains", "2", parse_limit
    )
    hf_repo: str = _setting(
        "HF_REPO",
        "Hub repo with your checkpoints, owner/name",
        None,
        value.repo,
        where="choose one, such as you/lanbot; just upload base creates it, private",
    )
    runs_repo: str | None = _setting(
        "RUNS_REPO", "Hub repo for run folders and logs, if other than HF_REPO", None, value.repo
    )
    ssh_public_key: str | None = _setting(
        "SSH_PUBLIC_KEY",
        "your own SSH key for the instance: path or text of the public half  "
        "[a key that Shadeform makes]",
        None,
        metavar="KEY",
    )
    wandb_project: str = _setting("WANDB_PROJECT", "wandb project", "lanbot", value.name)
    wandb_base_url: str = _setting(
        "WANDB_BASE_URL", "address of wandb", "https://api.wandb.ai", value.wandb_address
    )
    shadeform_api_key: Secret = _setting(
        "SHADEFORM_API_KEY",
        "key of your Shadeform account; better in .env: a flag shows in ps",
        secret=True,
        where="https://platform.shadeform.ai/settings/api",
    )
    self_delete: bool = _setting(
        "SELF_DELETE",
        "put a Shadeform key on the instance, so that it deletes itself; off: just guard deletes it",
        "yes",
        value.yes,
    )
    shadeform_api_key_box: Secret | None = _setting(
        "SHADEFORM_API_KEY_BOX",
        "a second Shadeform key, for the instance to use instead of yours",
        secret=True,
        where="https://platform.shadeform.ai/settings/api",
    )
    hf_token: Secret = _setting(
        "HF_TOKEN",
        "Hub token that may write HF_REPO; better in .env",
        secret=True,
        where="https://huggingface.co/settings/tokens, or: just hf auth login",
    )
    wandb_api_key: Secret | None = _setting(
        "WANDB_API_KEY",
        "turns wandb on; better in .env",
        secret=True,
        where="https://wandb.ai/authorize",
    )
    notify_url: Secret | None = _setting(
        "NOTIFY_URL",
        "where to send notifications: ntfy://topic, slack://..., mailto://...; better in .env",
        None,
        value.notify,
        secret=True,
        where="https://appriseit.com/services/",
    )
    shadeform_api: str = _setting(
        "SHADEFORM_API",
        "address of the Shadeform API",
        "https://api.shadeform.ai/v1",
        value.address_beside("SHADEFORM_API_KEY"),
        metavar="URL",
    )
    hf_endpoint: str = _setting(
        "HF_ENDPOINT",
        "address of the Hub",
        "https://huggingface.co",
        value.address_beside("HF_TOKEN"),
        metavar="URL",
    )
    sources: dict[str, str] = field(default_factory=dict)
    fork: Fork | None = None  # what `trainer` names, once it was read (nanolan/trainers/choose.py)

    @property
    def phases(self) -> tuple[str, ...]:
        if self.trainer == OWN_TRAINER:
            return phase_sequence(self.phase)
        return tuple(self.phase.split("+"))

    @property
    def phase_rows(self) -> tuple[Phase, ...]:
        """The phases, each with what it reads and writes."""
        known = self.fork.phases if self.fork else PHASES
        return tuple(known[p] for p in self.phases)

    @property
    def input_folder(self) -> str:
        """The checkpoint that the first phase starts from, in `input_repo`; "" is the repo's root."""
        if self.init:
            return self.init.partition(":")[2]
        return f"{self.phase_rows[0].input_dir}/{self.model_tag}"

    @property
    def input_repo(self) -> str:
        return self.init.partition(":")[0] if self.init else self.hf_repo

    @property
    def data_files(self) -> dict[str, list[str]]:
        """Data set repo -> globs of the files that the box downloads; a foreign trainer's evaluation gets its own."""
        evaluated = self.eval != "none" and (self.fork is None or self.fork.data != "online")
        return data_files(self.phase_rows, evaluated, self.humaneval)

    def need(self, *names: str) -> None:
        """Raise AuthProblem or UsageProblem if some of `names` have no value; it names all of them and where to get them."""
        missing = [TABLE[name] for name in names if getattr(self, name) is None]
        if not missing:
            return
        kind = AuthProblem if any(meta["secret"] for meta in missing) else UsageProblem
        lines = [
            f"{meta['env']} is not set" + (f". Get it: {meta['where']}" if meta["where"] else "")
            for meta in missing
        ]
        if len(lines) == 1:
            raise kind(
                f"{lines[0]}. Put it into .env: just init; what else is missing: just doctor"
            )
        raise kind(
            f"{len(lines)} settings are missing. Put them into .env: just init asks for them, .env.example "
            "shows them; then: just doctor" + "".join(f"\n  {line}" for line in lines)
        )

    def mask(self) -> Mask:
        """A mask over every secret setting."""
        return Mask(getattr(self, name) for name, meta in TABLE.items() if meta["secret"])


TABLE: dict[str, Mapping[str, Any]] = {f.name: f.metadata for f in fields(Settings) if f.metadata}
FIELDS: dict[str, str] = {meta["env"]: name for name, meta in TABLE.items()}
