"Hands the dependencies, extras and console scripts of settings.ini to setuptools; everything else is in pyproject.toml"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

cfg = ConfigParser(delimiters=['='])
cfg.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
suffix = '_requirements'

setup(
    install_requires=cfg['requirements'].split(),
    extras_require={k.removesuffix(suffix): v.split() for k,v in cfg.items() if k.endswith(suffix)},
    entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=['hp_fastai=hp_fastai._modidx:d']),
)
