"""Train the post's network for one epoch on the digits that ship; save it and three images.

python create_model.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np

from tercet.data import load_digits
from tercet.frontend.digits import train_digits

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
digits = load_digits()
model = train_digits(digits.x_train, digits.y_train)
model.save(folder / "model.keras")
np.save(folder / "images.npy", digits.x_test[:3])
print(f"saved {folder / 'model.keras'} and {folder / 'images.npy'}")
