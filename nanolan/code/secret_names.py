"""Names of files that usually contain secrets: keys, logins, histories, editors' copies. Such files are never sent,
whatever their content. Neither are data and weights."""

from __future__ import annotations

import fnmatch
import re

OUR_FILES = (".env.example",)
NEVER_FOLDERS = (
    ".env .ssh .ssh_keys .gnupg .aws .azure .gcloud .docker .kube .ipynb_checkpoints .idea .vscode"
    " .history __pycache__"
)
ENVIRONMENTS = ".env .env.* *.env .envrc *.tfvars *.tfstate *.tfstate.*"
KEYS = (
    "*.pem *.key *.ppk *.p12 *.pfx *.jks *.keystore *.kdbx *.gpg *.asc *.age id_rsa* id_dsa*"
    " id_ecdsa* id_ed25519* authorized_keys known_hosts"
)
LOGINS = (
    ".netrc _netrc .pypirc .npmrc .yarnrc* .git-credentials .pgpass .my.cnf .htpasswd .boto .s3cfg"
    " .dockercfg kubeconfig* *.kubeconfig credentials credentials.json credentials.y*ml"
    " credentials.txt *service-account*.json *service_account*.json client_secret*.json"
)
SECRETS = (
    "secrets secret*.json secret*.y*ml secret*.toml secret*.txt *.secret *.secrets password*.txt"
    " token token*.txt token.json *.token stored_tokens"
)
HISTORIES = (
    ".*_history .*_history.* .*hist *.history .lesshst .viminfo .nviminfo nohup.out *.har *.pcap"
    " core core.[0-9]* *.core *.dmp"
)
COPIES = (
    "*.swp *.swo *.swn *.kate-swp *~ #*# .#* *.bak *.backup *.orig *.rej *.old *.save *.autosave"
    " *.tmp *.temp *.pyc .ds_store"
)
NEVER = " ".join((ENVIRONMENTS, KEYS, LOGINS, SECRETS, HISTORIES, COPIES)).split()
FOLDERS = frozenset(NEVER_FOLDERS.split())
NEVER_NAME = re.compile("|".join(map(fnmatch.translate, NEVER)))


def is_secret_name(path: str) -> bool:
    """Whether a file name matches NEVER, or a folder of its path is in FOLDERS, in any letter case."""
    *folders, name = path.lower().split("/")
    if not FOLDERS.isdisjoint(folders):
        return True
    return name not in OUR_FILES and NEVER_NAME.fullmatch(name) is not None


WEIGHTS_AND_DATA = re.compile(
    r".*\.(pt|pth|ckpt|safetensors|gguf|onnx|parquet|arrow|feather|npy|npz|h5|hdf5|tfrecord)"
)


def is_data_name(path: str) -> bool:
    """Whether a file name is that of weights or of a data set, in any letter case."""
    return WEIGHTS_AND_DATA.fullmatch(path.lower()) is not None
