"""How many photos of the rendered street one core draws in a second: python benchmarks/street_speed.py [PHOTOS] [DIFFICULTY]

Wall clock and processor time are both given: the second is what counts on a machine that is busy with other things.
"""
import sys, tempfile, time
from hp_fastai.street import render_street

def main(n_photos=240, difficulty=.5):
    with tempfile.TemporaryDirectory() as tmp:
        wall,cpu = time.perf_counter(),time.process_time()
        street = render_street(tmp, n_photos=n_photos, difficulty=difficulty, n_workers=0, progress=False)
        wall,cpu = time.perf_counter()-wall,time.process_time()-cpu
    print(street)
    print(f'640 x 480, difficulty {difficulty}: {n_photos/wall:.1f} photos/s of wall clock, {n_photos/cpu:.1f} photos/s of processor time, one process')

if __name__=='__main__': main(*(f(o) for f,o in zip((int, float), sys.argv[1:])))
