mkdir -p /tmp/p; ln -sfn $PWD /tmp/p/r1kit
S=${STEPS:-2500}; D=${DEV:-cuda}; T=${LIM:-420}
(timeout $T python3 .exp/tt.py tA "steps=$S,batch=512,muon_lr=.008,adam_lr=1e-3,pool=300000" > $OUT/tA.log 2>&1) &
run(){ timeout 170 python3 .exp/sft.py --dev cuda --threads 2 "$@" 2>&1 | grep -v "^[0-9]* [0-9]* .*tok/s" | tail -1; }
C="--n 1000 --epochs 4"
B="--batch 16 --lr 4e-3"
B="--batch 16 --lr 4e-3"
H="--hidden 192 --layers 2 --inter 512"
cat > /tmp/list <<L
$C $B $H
$C $B $H --lr 6e-3
$C $B $H --lr 3e-3
$B $H --n 1000 --epochs 3
$B $H --n 1200 --epochs 3
$B $H --n 900 --epochs 4
$C $B
$C $B $H --adamlr 1e-3
$C --batch 12 --lr 4e-3 $H
$C $B $H --heads 6 --kv 2
$C $B $H --rope 1000
$C $B --hidden 256 --layers 2 --inter 384
$C --batch 20 --lr 4e-3 $H
L
export -f run
cat /tmp/list | timeout $((T-60)) xargs -P 4 -I{} bash -c 'echo "CFG {} :: $(run {} | tr "\n" " ")"' 2>&1 | tee $OUT/sweep.log
wait
tail -n 4 $OUT/tA.log
